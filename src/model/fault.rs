//! What is wrong with a request, and where.

use serde::Serialize;

/// One fault of a well-formed request: a JSON pointer (RFC 6901) and a sentence that says what to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Fault {
    pub pointer: String,
    pub detail: String,
}

/// The pointer (RFC 6901) of a member of an object.
pub fn below(pointer: &str, name: &str) -> String {
    format!("{pointer}/{}", name.replace('~', "~0").replace('/', "~1"))
}
