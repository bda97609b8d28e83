//! The device CA: its certificate and key, and the pair that speaks SCEP for it. Both are kept sealed; the first process that makes one
//! has made it for all.

use serde_json::json;

use crate::clock::Moment;
use crate::error::{Error, Result};
use crate::model::{Actor, Role};
use crate::protocol::cms::Signing;
use crate::protocol::pki::certificate::Wanted;
use crate::protocol::pki::{self, Certificate, Key, PkiError, Purpose};
use crate::seal::Seal;
use crate::store::feed::{self, Entry};
use crate::store::{Conn, sealed};

/// The device CA that the server made is sealed under this name.
pub const CA_NAME: &str = "ca/device";
/// Former CAs whose certificates are still vouched for, at most.
const FORMER_MAX: usize = 3;
const YEAR_MS: i64 = 365 * 86_400_000;
const CA_LIFE_MS: i64 = 20 * YEAR_MS;
/// An identity lives so long; it is renewed after two thirds of it.
const IDENTITY_LIFE_MS: i64 = YEAR_MS;

/// A certificate with its key, and what stands above it.
#[derive(Clone, Debug)]
pub struct Pair {
    /// The certificate, then those above it or, of a CA, those whose place it has taken.
    pub chain: Vec<Certificate>,
    pub key: Key,
}

/// The device CA, ready to issue.
#[derive(Clone, Debug)]
pub struct Authority {
    pub ca: Pair,
    /// Opens requests and signs answers: an RSA key, whatever the CA's is.
    pub transport: Pair,
}

impl Pair {
    /// Reads PEM, and checks that certificate and key belong together.
    pub fn from_pem(chain: &str, key: &str) -> pki::Result<Pair> {
        let (chain, key) = (Certificate::chain_from_pem(chain)?, Key::from_pem(key)?);
        if chain[0].spki() != key.spki()? {
            return Err(PkiError::Key("it is not the certificate's"));
        }
        Ok(Pair { chain, key })
    }

    pub fn certificate(&self) -> &Certificate {
        &self.chain[0]
    }

    /// A device CA of its own. Takes up to seconds.
    pub fn make_ca(moment: &mut Moment) -> pki::Result<Pair> {
        Pair::make(moment, None, Purpose::Ca, "Muster device CA")
    }

    /// What speaks SCEP for a CA. Takes up to seconds.
    pub fn make_transport(moment: &mut Moment, ca: &Pair) -> pki::Result<Pair> {
        Pair::make(moment, Some(ca), Purpose::Transport, "Muster SCEP")
    }

    fn make(moment: &mut Moment, issuer: Option<&Pair>, purpose: Purpose, common_name: &str) -> pki::Result<Pair> {
        let key = Key::make(moment)?;
        let wanted = Wanted { purpose, common_name, spki: &key.spki()?, life_ms: CA_LIFE_MS };
        let signer = issuer.map_or(&key, |issuer| &issuer.key);
        let certificate = Certificate::issue(moment, issuer.map(Pair::certificate), signer, &wanted)?;
        Ok(Pair { chain: vec![certificate], key })
    }

    fn sealed(&self, moment: &mut Moment, seal: &Seal, name: &str) -> Result<String> {
        let key = self.key.to_pem().map_err(unusable)?;
        let text = self.chain.iter().fold(key, |text, one| text + &one.to_pem());
        Ok(seal.seal(moment, name, text.as_bytes()))
    }

    fn opened(seal: &Seal, name: &str, sealed: &str) -> Result<Pair> {
        let text = seal.open(name, sealed).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        let text = text.ok_or_else(|| unusable(PkiError::Undecryptable))?;
        Pair::from_pem(&text, &text).map_err(unusable)
    }
}

/// The name under which the pair that speaks for a CA is sealed.
fn transport_name(ca: &Certificate) -> String {
    format!("ca/transport/{}", &ca.hash()[..32])
}

/// The CA that was made before, if one was.
pub async fn stored_ca(conn: &mut Conn, seal: &Seal) -> Result<Option<Pair>> {
    stored(conn, seal, CA_NAME).await
}

/// What speaks for this CA, if it was made before.
pub async fn stored_transport(conn: &mut Conn, seal: &Seal, ca: &Pair) -> Result<Option<Pair>> {
    stored(conn, seal, &transport_name(ca.certificate())).await
}

/// Keeps a CA unless there is one; answers the one that stands.
pub async fn keep_ca(conn: &mut Conn, moment: &mut Moment, seal: &Seal, made: &Pair) -> Result<Pair> {
    keep(conn, moment, seal, CA_NAME, made).await
}

/// Keeps what speaks for a CA unless there is something; answers what stands.
pub async fn keep_transport(conn: &mut Conn, moment: &mut Moment, seal: &Seal, ca: &Pair, made: &Pair) -> Result<Pair> {
    keep(conn, moment, seal, &transport_name(ca.certificate()), made).await
}

/// Puts a new CA in the place of the one that there is. What that one issued stays good and is vouched for until it ends.
pub async fn rotate_ca(conn: &mut Conn, moment: &mut Moment, seal: &Seal, actor: &Actor, made: Pair) -> Result<Pair> {
    actor.require(Role::Admin)?;
    let former = stored_ca(conn, seal).await?.map(|former| former.chain).unwrap_or_default();
    let still_good = former.into_iter().filter(|one| one.is_valid_at(moment.now_ms)).take(FORMER_MAX);
    let ca = Pair { chain: made.chain.into_iter().chain(still_good).collect(), key: made.key };
    let sealed = ca.sealed(moment, seal, CA_NAME)?;
    sealed::put(conn, CA_NAME, &sealed, moment.now_ms).await?;
    let data = json!({"sha256": ca.certificate().hash(), "expires_at_ms": ca.certificate().until_ms()});
    feed::append(conn, moment, &[Entry { kind: "ca.rotated", actor: Some(actor.name.clone()), device_id: None, data }]).await?;
    Ok(ca)
}

async fn stored(conn: &mut Conn, seal: &Seal, name: &str) -> Result<Option<Pair>> {
    sealed::get(conn, name).await?.map(|sealed| Pair::opened(seal, name, &sealed)).transpose()
}

async fn keep(conn: &mut Conn, moment: &mut Moment, seal: &Seal, name: &str, made: &Pair) -> Result<Pair> {
    let ours = made.sealed(moment, seal, name)?;
    let stands = sealed::put_if_absent(conn, name, &ours, moment.now_ms).await?;
    if stands == ours { Ok(made.clone()) } else { Pair::opened(seal, name, &stands) }
}

/// What cannot be done with the CA; its secrets are not in it.
pub fn unusable(error: PkiError) -> Error {
    Error::refused("device_ca_unusable", format!("the device CA cannot be used: {error}"))
}

impl Authority {
    /// How answers of SCEP are signed.
    pub fn signing(&self, now_ms: i64) -> Signing<'_> {
        Signing { certificate: self.transport.certificate(), key: &self.transport.key, chain: &[], now_ms }
    }

    /// The certificate of a device for its key.
    pub fn certify(&self, moment: &mut Moment, spki: &[u8]) -> pki::Result<Certificate> {
        let name: String = moment.secret()[..8].iter().map(|byte| format!("{byte:02x}")).collect();
        let wanted = Wanted { purpose: Purpose::Device, common_name: &format!("Device {name}"), spki, life_ms: IDENTITY_LIFE_MS };
        Certificate::issue(moment, Some(self.ca.certificate()), &self.ca.key, &wanted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Class;
    use crate::store::testing::each_database;

    #[tokio::test]
    async fn the_first_ca_that_is_kept_stands_and_opens_under_the_same_master_key_alone() {
        each_database(async |db| {
            let (mut moment, seal) = (Moment::fixed(1_800_000_000_000, 1), Seal::new(&[7; 32]));
            let (first, second) = (Pair::make_ca(&mut moment).unwrap(), Pair::make_ca(&mut moment).unwrap());
            let mut conn = db.begin(Class::Operators).await.unwrap();
            assert!(stored_ca(&mut conn, &seal).await.unwrap().is_none());
            for (made, stands) in [(&first, &first), (&second, &first), (&first, &first)] {
                let kept = keep_ca(&mut conn, &mut moment, &seal, made).await.unwrap();
                assert_eq!(kept.certificate(), stands.certificate());
                assert_eq!(kept.key.spki().unwrap(), kept.certificate().spki());
            }
            let stored = stored_ca(&mut conn, &seal).await.unwrap().unwrap();
            assert_eq!(stored.certificate(), first.certificate());
            assert!(stored_ca(&mut conn, &Seal::new(&[8; 32])).await.is_err());
            assert!(stored_transport(&mut conn, &seal, &first).await.unwrap().is_none());
            conn.commit().await.unwrap();
            assert!(Pair::from_pem(&first.certificate().to_pem(), &second.key.to_pem().unwrap()).is_err(), "another's key");
            assert!(!format!("{first:?}").contains("PRIVATE") && format!("{:?}", first.key) == "Key(RSA)");
        })
        .await;
    }
}
