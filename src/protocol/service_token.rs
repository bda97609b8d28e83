//! Service tokens: JWTs (RFC 7519) with which an agent proves itself to another server, signed with Ed25519 (`EdDSA`, RFC 8037), and the
//! key set (RFC 7517) by which that server checks them.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use ring::signature::{Ed25519KeyPair, KeyPair};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use utoipa::ToSchema;

/// How long a token lives at most.
pub const LIFE_S: i64 = 600;
/// A token at most: longer ones are not looked at.
pub const BYTES_MAX: usize = 4096;
/// What stands before the 32 bytes of an Ed25519 key in PKCS#8 (RFC 8410).
const PKCS8_HEAD: [u8; 16] = [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];

/// What a service token says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// The server's public address.
    pub iss: String,
    /// The user's id.
    pub sub: String,
    /// The kind of server that it is for: `storage`.
    pub aud: String,
    /// Unix seconds, as `exp`.
    pub iat: i64,
    pub exp: i64,
    pub jti: String,
    pub device_id: String,
    pub email: String,
}

/// A public key as a member of the key set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PublicKey {
    pub kty: String,
    pub crv: String,
    /// Base64url of the key's 32 bytes.
    pub x: String,
    /// The key's thumbprint (RFC 7638).
    pub kid: String,
    #[serde(default)]
    pub alg: String,
    #[serde(default, rename = "use")]
    pub purpose: String,
}

/// The key set: `{"keys": [...]}`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct KeySet {
    pub keys: Vec<PublicKey>,
}

/// A private key. Its Debug shows the id alone.
pub struct Signer {
    key: EncodingKey,
    public: PublicKey,
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Signer({})", self.public.kid)
    }
}

/// Why a token proves nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error("this is no service token")]
    Malformed,
    /// Perhaps of a key that came after the key set was read.
    #[error("the token names a key that the server does not have")]
    KeyUnknown,
    #[error("the token's signature is wrong")]
    Signature,
    #[error("the token has ended")]
    Expired,
    #[error("the token is for another kind of server")]
    Audience,
}

impl Signer {
    /// The key of this seed; `None` for a seed that gives none, which no 32 bytes are.
    pub fn from_seed(seed: &[u8; 32]) -> Option<Signer> {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed).ok()?;
        let x = URL_SAFE_NO_PAD.encode(pair.public_key());
        let thumbprint = Sha256::digest(format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{x}"}}"#));
        let public = PublicKey {
            kty: "OKP".into(),
            crv: "Ed25519".into(),
            x,
            kid: URL_SAFE_NO_PAD.encode(thumbprint),
            alg: "EdDSA".into(),
            purpose: "sig".into(),
        };
        Some(Signer { key: EncodingKey::from_ed_der(&[PKCS8_HEAD.as_slice(), seed].concat()), public })
    }

    /// What others check its signatures by.
    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    /// The token that says `claims`; `None` where it cannot be signed.
    pub fn sign(&self, claims: &Claims) -> Option<String> {
        let header = Header { kid: Some(self.public.kid.clone()), ..Header::new(Algorithm::EdDSA) };
        jsonwebtoken::encode(&header, claims, &self.key).ok()
    }
}

impl KeySet {
    /// What a token says, if one of these keys signed it and it stands at `now_ms`.
    pub fn verify(&self, token: &str, now_ms: i64) -> Result<Claims, TokenError> {
        if token.len() > BYTES_MAX {
            return Err(TokenError::Malformed);
        }
        let header = jsonwebtoken::decode_header(token).map_err(|_| TokenError::Malformed)?;
        let kid = header.kid.filter(|_| header.alg == Algorithm::EdDSA).ok_or(TokenError::Malformed)?;
        let known =
            self.keys.iter().find(|key| key.kid == kid && key.kty == "OKP" && key.crv == "Ed25519").ok_or(TokenError::KeyUnknown)?;
        let key = DecodingKey::from_ed_components(&known.x).map_err(|_| TokenError::KeyUnknown)?;
        let mut rules = Validation::new(Algorithm::EdDSA);
        // By the caller's clock, below; the audience is the caller's own matter too.
        rules.validate_exp = false;
        rules.validate_aud = false;
        rules.required_spec_claims.clear();
        let claims = jsonwebtoken::decode::<Claims>(token, &key, &rules).map_err(|error| match error.kind() {
            jsonwebtoken::errors::ErrorKind::InvalidSignature => TokenError::Signature,
            _ => TokenError::Malformed,
        })?;
        let claims = claims.claims;
        if claims.exp.saturating_mul(1000) <= now_ms { Err(TokenError::Expired) } else { Ok(claims) }
    }

    /// The same for a server of the kind `audience`.
    pub fn verify_for(&self, audience: &str, token: &str, now_ms: i64) -> Result<Claims, TokenError> {
        self.verify(token, now_ms).and_then(|claims| if claims.aud == audience { Ok(claims) } else { Err(TokenError::Audience) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims() -> Claims {
        let [iss, sub, jti, device_id] = ["https://mdm.example.org", "u", "j", "d"].map(str::to_owned);
        Claims { iss, sub, aud: "storage".into(), iat: 1_000, exp: 1_600, jti, device_id, email: "user@example.org".into() }
    }

    fn keys(seeds: &[u8]) -> (Vec<Signer>, KeySet) {
        let signers: Vec<Signer> = seeds.iter().map(|seed| Signer::from_seed(&[*seed; 32]).unwrap()).collect();
        let keys = signers.iter().map(|signer| signer.public().clone()).collect();
        (signers, KeySet { keys })
    }

    #[test]
    fn the_key_and_its_thumbprint_are_those_of_rfc_8037() {
        // Appendix A: the seed, the public key and the thumbprint.
        let seed = URL_SAFE_NO_PAD.decode("nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A").unwrap();
        let signer = Signer::from_seed(&seed.try_into().unwrap()).unwrap();
        assert_eq!(signer.public().x, "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo");
        assert_eq!(signer.public().kid, "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
    }

    #[test]
    fn a_token_is_believed_of_a_key_that_is_known_until_its_second_and_by_whom_it_is_for() {
        let (signers, set) = keys(&[1, 2]);
        let token = signers[1].sign(&claims()).unwrap();
        assert_eq!(set.verify(&token, 1_599_999).unwrap(), claims());
        assert_eq!(set.verify(&token, 1_600_000), Err(TokenError::Expired));
        assert_eq!(set.verify_for("storage", &token, 0).unwrap(), claims());
        assert_eq!(set.verify_for("mail", &token, 0), Err(TokenError::Audience));
        assert_eq!(keys(&[1]).1.verify(&token, 0), Err(TokenError::KeyUnknown));
        assert!(!format!("{:?}", signers[1]).contains("key:"), "Debug shows the id alone");
    }

    #[test]
    fn what_was_changed_or_signed_otherwise_proves_nothing() {
        let (signers, set) = keys(&[1]);
        let token = signers[0].sign(&claims()).unwrap();
        let parts: Vec<&str> = token.split('.').collect();
        let other = URL_SAFE_NO_PAD.encode(serde_json::to_vec(&Claims { sub: "another".into(), ..claims() }).unwrap());
        assert_eq!(set.verify(&format!("{}.{other}.{}", parts[0], parts[2]), 0), Err(TokenError::Signature));
        let kid = &set.keys[0].kid;
        for header in
            [format!(r#"{{"alg":"none","kid":"{kid}"}}"#), format!(r#"{{"alg":"HS256","kid":"{kid}"}}"#), r#"{"alg":"EdDSA"}"#.into()]
        {
            let forged = format!("{}.{}.{}", URL_SAFE_NO_PAD.encode(&header), parts[1], parts[2]);
            assert_eq!(set.verify(&forged, 0), Err(TokenError::Malformed), "{header}");
        }
        for nonsense in ["", "a.b.c", "mdt_x", &"x".repeat(BYTES_MAX + 1)] {
            assert_eq!(set.verify(nonsense, 0), Err(TokenError::Malformed));
        }
    }
}
