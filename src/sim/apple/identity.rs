//! How a simulated iPhone comes by its identity: it reads the enrollment profile and asks the SCEP server that the profile names.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use plist::{Dictionary, Value};
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use sha2::{Digest, Sha256};

use super::{Iphone, TIMEOUT, Trouble};
use crate::clock::Clock;
use crate::protocol::apple::reading;
use crate::protocol::apple::scep::{Answer, Asking, Kind};
use crate::protocol::cms::{Cipher, SignedData, Signing};
use crate::protocol::pki::certificate::Wanted;
use crate::protocol::pki::request::Request;
use crate::protocol::pki::{Certificate, Key, PkiError, Purpose};
use crate::sim::uplink::Ask;

const DAY_MS: i64 = 86_400_000;

/// The key of a phone and what the server certified of it.
#[derive(Clone, Debug)]
pub struct Identity {
    pub certificate: Certificate,
    pub key: Key,
}

/// What a phone takes from an enrollment profile.
#[derive(Clone, Debug)]
pub struct Enrollment {
    pub scep_url: String,
    pub challenge: String,
    /// SHA-256 of the CA's certificate.
    pub fingerprint: Vec<u8>,
    pub topic: String,
    pub identifier: String,
    /// Whether each message is to be signed.
    pub signs: bool,
}

impl Identity {
    /// A fresh RSA key with a certificate that it made itself, as the first request is signed with.
    pub async fn of_its_own(name: &str) -> Result<Identity, Trouble> {
        let clock = Clock::system();
        let key = beside(move || Key::make(&mut clock.moment())).await?;
        let wanted = Wanted { purpose: Purpose::Transport, common_name: name, spki: &key.spki()?, life_ms: DAY_MS };
        let certificate = Certificate::issue(&mut Clock::system().moment(), None, &key, &wanted)?;
        Ok(Identity { certificate, key })
    }
}

impl Enrollment {
    /// Reads a profile, signed or not.
    pub fn read(bytes: &[u8]) -> Result<Enrollment, Trouble> {
        let plain = match SignedData::parse(bytes) {
            Ok(signed) => signed.verify(None)?.content,
            Err(_) => bytes.to_vec(),
        };
        let profile = reading::dictionary(&plain).map_err(|_| Trouble::Nonsense)?;
        let payloads: Vec<&Dictionary> =
            profile.get("PayloadContent").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_dictionary).collect();
        let of = |kind: &str| payloads.iter().find(|one| one.get("PayloadType").and_then(Value::as_string) == Some(kind)).copied();
        let (scep, mdm) = (of("com.apple.security.scep"), of("com.apple.mdm"));
        let settings = scep.and_then(|scep| scep.get("PayloadContent")).and_then(Value::as_dictionary).ok_or(Trouble::Nonsense)?;
        let text = |from: Option<&Dictionary>, key: &str| {
            from.and_then(|from| from.get(key)).and_then(Value::as_string).map(str::to_owned).ok_or(Trouble::Nonsense)
        };
        Ok(Enrollment {
            scep_url: text(Some(settings), "URL")?,
            challenge: text(Some(settings), "Challenge")?,
            fingerprint: settings.get("CAFingerprint").and_then(Value::as_data).unwrap_or_default().to_vec(),
            topic: text(mdm, "Topic")?,
            identifier: text(Some(&profile), "PayloadIdentifier")?,
            signs: mdm.and_then(|mdm| mdm.get("SignMessage")).and_then(Value::as_boolean).unwrap_or_default(),
        })
    }
}

impl Iphone {
    /// Opens an enrollment link, gets its identity, and enrolls with this push token.
    pub async fn enroll_by(&mut self, link: &str, token: &[u8]) -> Result<(), Trouble> {
        let profile = self.fetch_profile(link).await?;
        self.install(&profile, token).await
    }

    /// The profile behind an enrollment link.
    pub async fn fetch_profile(&self, link: &str) -> Result<Vec<u8>, Trouble> {
        self.enrolling(self.client.get(format!("{link}/profile.mobileconfig"))).await
    }

    /// Installs an enrollment profile, the first or one that renews: the identity, Authenticate, TokenUpdate.
    pub(super) async fn install(&mut self, profile: &[u8], token: &[u8]) -> Result<(), Trouble> {
        let enrollment = Enrollment::read(profile)?;
        let identity = self.ask(&enrollment).await?;
        self.use_identity(identity)?;
        self.signs = enrollment.signs;
        self.topic = enrollment.topic;
        self.state.profile = enrollment.identifier;
        self.enroll(token).await
    }

    /// Speaks with this identity from now on.
    pub fn use_identity(&mut self, identity: Identity) -> Result<(), Trouble> {
        self.identity = Some(identity);
        self.client = self.connecting()?;
        Ok(())
    }

    /// Asks for an identity with a fresh key, by the challenge of a profile.
    pub async fn ask(&self, enrollment: &Enrollment) -> Result<Identity, Trouble> {
        let own = Identity::of_its_own(&self.serial).await?;
        let request = Request::make(&own.key, own.certificate.subject(), Some(&enrollment.challenge))?;
        let certificate = self.exchange(enrollment, Kind::First, &own, &request).await?;
        Ok(Identity { certificate, ..own })
    }

    /// Asks for a further certificate of the key that it has, without a challenge (RenewalReq), and uses it from now on.
    pub async fn renew(&mut self, enrollment: &Enrollment) -> Result<(), Trouble> {
        let identity = self.identity.clone().ok_or(Trouble::Nonsense)?;
        let request = Request::make(&identity.key, identity.certificate.subject(), None)?;
        let certificate = self.exchange(enrollment, Kind::Renewal, &identity, &request).await?;
        self.use_identity(Identity { certificate, ..identity })
    }

    async fn exchange(&self, enrollment: &Enrollment, kind: Kind, by: &Identity, request: &[u8]) -> Result<Certificate, Trouble> {
        let url = &self.at_server(&enrollment.scep_url);
        let able = self.enrolling(self.client.get(format!("{url}?operation=GetCACaps"))).await?;
        let cipher = if String::from_utf8_lossy(&able).lines().any(|line| line == "AES") { Cipher::Aes128 } else { Cipher::Des3 };
        let (recipient, ca) = self.authorities(enrollment).await?;
        let transaction: String = Sha256::digest(request).iter().map(|byte| format!("{byte:02X}")).collect();
        let asking = Asking { kind, signer: &by.certificate, key: &by.key, recipient: &recipient, cipher, transaction: &transaction };
        let mut moment = Clock::system().moment();
        let (message, nonce) = asking.message(&mut moment, request)?;
        let sent =
            self.client.post(format!("{url}?operation=PKIOperation")).header("Content-Type", "application/x-pki-message").body(message);
        let answer = self.enrolling(sent).await?;
        match asking.answer(&mut moment, &answer, &nonce)? {
            Answer::Issued(certificate) if certificate.is_issued_by(&ca) => Ok(*certificate),
            Answer::Issued(_) => Err(Trouble::Nonsense),
            Answer::Failed(why) => Err(Trouble::Unissued(why)),
        }
    }

    /// A request on the way to an identity.
    async fn enrolling(&self, request: reqwest::RequestBuilder) -> Result<Vec<u8>, Trouble> {
        self.over_uplink(Ask::Enroll, async { bytes_of(request.send().await?).await }).await
    }

    /// An address as the phone reaches it: the server's name is known to it alone.
    pub(super) fn at_server(&self, url: &str) -> String {
        let path = url.split_once("://").and_then(|(_, rest)| rest.split_once('/')).map_or("", |(_, path)| path);
        format!("{}/{path}", self.server)
    }

    /// What the SCEP server of a profile lists: what opens requests, and the CA.
    pub async fn authorities(&self, enrollment: &Enrollment) -> Result<(Certificate, Certificate), Trouble> {
        let url = self.at_server(&enrollment.scep_url);
        let listed = self.enrolling(self.client.get(format!("{url}?operation=GetCACert&message=Muster"))).await?;
        let listed = SignedData::parse(&listed)?;
        let known = |one: &&Certificate| enrollment.fingerprint.is_empty() || one.fingerprint() == enrollment.fingerprint;
        let ca = listed.certificates().iter().filter(|one| one.is_ca()).find(known).ok_or(Trouble::Nonsense)?;
        let recipient = listed.certificates().iter().find(|one| !one.is_ca() && one.is_issued_by(ca)).ok_or(Trouble::Nonsense)?;
        Ok((recipient.clone(), ca.clone()))
    }

    /// The headers that prove who sends this body.
    pub(super) fn proofs(&self, body: &[u8]) -> Result<HeaderMap, Trouble> {
        let mut headers = HeaderMap::new();
        let mut insert = |name: &str, value: String| {
            let name = HeaderName::try_from(name).map_err(|_| Trouble::Nonsense)?;
            headers.insert(name, HeaderValue::try_from(value).map_err(|_| Trouble::Nonsense)?);
            Ok::<(), Trouble>(())
        };
        if let Some((name, value)) = &self.proxy {
            // As RFC 9440 has it.
            let forwarded = self.identity.as_ref().map(|identity| format!(":{}:", STANDARD.encode(identity.certificate.der())));
            insert(name, forwarded.unwrap_or_else(|| value.clone()))?;
        }
        if let Some(Identity { certificate, key }) = self.identity.as_ref().filter(|_| self.signs) {
            let signing = Signing { certificate, key, chain: &[], now_ms: Clock::system().now_ms() };
            insert("Mdm-Signature", STANDARD.encode(signing.sign_detached(body)?))?;
        }
        Ok(headers)
    }

    /// A client that shows the phone's identity in the TLS handshake, if it has one.
    pub(super) fn connecting(&self) -> Result<reqwest::Client, Trouble> {
        let mut client = crate::sim::client(TIMEOUT);
        if let Some(root) = &self.root {
            client = client.tls_certs_only([reqwest::Certificate::from_pem(root.as_bytes())?]);
        }
        if let Some(identity) = self.identity.as_ref().filter(|_| self.server.starts_with("https://")) {
            let pem = identity.key.to_pem()? + &identity.certificate.to_pem();
            client = client.identity(reqwest::Identity::from_pem(pem.as_bytes())?);
        }
        Ok(client.build()?)
    }
}

/// Makes a key, which takes up to seconds, beside the loop.
async fn beside(make: impl FnOnce() -> Result<Key, PkiError> + Send + 'static) -> Result<Key, Trouble> {
    Ok(tokio::task::spawn_blocking(make).await.map_err(|_| Trouble::Nonsense)??)
}

async fn bytes_of(response: reqwest::Response) -> Result<Vec<u8>, Trouble> {
    let status = response.status();
    if status.as_u16() != 200 {
        return Err(Trouble::Refused(status.as_u16(), response.text().await?));
    }
    Ok(response.bytes().await?.to_vec())
}
