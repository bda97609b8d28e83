//! `POST /agent/v1/service-token`.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::check::{self, ParseError};
use crate::model::Fault;

const TEXT_CHARS_MAX: usize = 256;

/// An agent asks for a token with which it proves itself to another server.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub struct ServiceTokenBody {
    /// The kind of server: `storage`.
    pub audience: String,
    /// The user's address, compared in lower case.
    pub email: String,
    /// The device that asks.
    pub device_id: String,
}

/// The answer: a JWT signed with EdDSA, of ten minutes at most.
#[derive(Clone, Serialize, ToSchema)]
pub struct ServiceTokenAnswer {
    pub token: String,
    pub expires_at_ms: i64,
}

impl std::fmt::Debug for ServiceTokenAnswer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServiceTokenAnswer").field("expires_at_ms", &self.expires_at_ms).finish_non_exhaustive()
    }
}

/// Reads a request for a service token.
pub fn parse_service_token(bytes: &[u8]) -> Result<ServiceTokenBody, ParseError> {
    let body: ServiceTokenBody = check::whole(bytes)?;
    let fields = [("/audience", &body.audience), ("/email", &body.email), ("/device_id", &body.device_id)];
    let faults: Vec<Fault> = fields
        .into_iter()
        .filter_map(|(pointer, text)| check::text(text, TEXT_CHARS_MAX).err().map(|detail| Fault { pointer: pointer.into(), detail }))
        .collect();
    if faults.is_empty() { Ok(body) } else { Err(ParseError::Invalid(faults)) }
}
