//! The modules of the server that read what strangers send, and nothing else of it: no database and no network are built for fuzzing them.

#[path = "../../src/clock.rs"]
pub mod clock;
#[path = "../../src/model/mod.rs"]
pub mod model;
#[path = "../../src/protocol/mod.rs"]
pub mod protocol;

/// What the model names of the server's errors.
pub mod error {
    pub type Result<T> = std::result::Result<T, Error>;

    #[derive(Debug)]
    pub struct Error;

    impl Error {
        pub fn invalid(_pointer: impl Into<String>, _detail: impl Into<String>) -> Error {
            Error
        }

        pub fn refused(_code: &'static str, _detail: impl Into<String>) -> Error {
            Error
        }
    }
}
