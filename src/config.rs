//! Settings: the file, then `MUSTER_*` variables, then flags.
#[derive(Debug, Clone, Default)]
pub struct Config {
    pub public_url: String,
}
impl Config {
    pub fn public_url_is_https(&self) -> bool {
        self.public_url.starts_with("https://")
    }
}
