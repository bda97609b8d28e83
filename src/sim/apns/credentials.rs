//! What Apple hands out: a certificate authority, MDM push certificates, and the keys of provider tokens.

use std::io;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// UserId of RFC 4519: where a push certificate carries its topic.
const UID: [u64; 7] = [0, 9, 2342, 19_200_300, 100, 1, 1];
const DAY_MS: i64 = 86_400_000;
const YEAR_MS: i64 = 365 * DAY_MS;

/// An MDM push certificate with its key, as an operator gets them from Apple.
#[derive(Clone, Debug)]
pub struct PushCertificate {
    pub topic: String,
    /// PEM.
    pub certificate: String,
    /// PKCS#8 PEM.
    pub key: String,
    /// Unix milliseconds, to the second.
    pub not_after_ms: i64,
}

/// A signing key of provider tokens, as an operator gets it from Apple.
#[derive(Clone, Debug)]
pub struct ProviderKey {
    pub key_id: String,
    pub team_id: String,
    /// The .p8 file: P-256, PKCS#8 PEM.
    pub p8: String,
}

/// A certificate authority and what it can sign.
pub(super) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub(super) certificate: CertificateDer<'static>,
    pub(super) pem: String,
}

impl Authority {
    pub(super) fn new(name: &str) -> io::Result<Authority> {
        let key = KeyPair::generate().map_err(io::Error::other)?;
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        // Clients check it against their own clock, which may not be the stand-in's.
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2049, 12, 31);
        let certificate = params.self_signed(&key).map_err(io::Error::other)?;
        let (pem, der) = (certificate.pem(), certificate.der().clone());
        Ok(Authority { issuer: Issuer::new(params, key), certificate: der, pem })
    }

    /// A certificate for `localhost` and 127.0.0.1.
    pub(super) fn server(&self) -> io::Result<(CertificateDer<'static>, PrivateKeyDer<'static>)> {
        let key = KeyPair::generate().map_err(io::Error::other)?;
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let mut params = CertificateParams::new(names).map_err(io::Error::other)?;
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2049, 12, 31);
        let certificate = params.signed_by(&key, &self.issuer).map_err(io::Error::other)?;
        let key = PrivateKeyDer::try_from(key.serialize_der()).map_err(io::Error::other)?;
        Ok((certificate.der().clone(), key))
    }

    /// An MDM push certificate that ends at `not_after_ms`, a year after its beginning, for a key of its own.
    pub(super) fn push(&self, topic: &str, not_after_ms: i64) -> io::Result<PushCertificate> {
        self.push_for(topic, not_after_ms, &KeyPair::generate().map_err(io::Error::other)?)
    }

    /// As [`Authority::push`], for this key.
    pub(super) fn push_for(&self, topic: &str, not_after_ms: i64, key: &KeyPair) -> io::Result<PushCertificate> {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CustomDnType(UID.to_vec()), topic);
        params.distinguished_name.push(DnType::CommonName, format!("APSP:{}", topic.rsplit('.').next().unwrap_or_default()));
        let not_after_ms = not_after_ms - not_after_ms % 1_000;
        let epoch = rcgen::date_time_ymd(1970, 1, 1);
        params.not_before = epoch + Duration::from_millis((not_after_ms - YEAR_MS).max(0).unsigned_abs());
        params.not_after = epoch + Duration::from_millis(not_after_ms.max(0).unsigned_abs());
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(key, &self.issuer).map_err(io::Error::other)?;
        Ok(PushCertificate { topic: topic.to_owned(), certificate: certificate.pem(), key: key.serialize_pem(), not_after_ms })
    }
}

/// The topic in the subject of a certificate, if it has one.
pub(super) fn topic_of(certificate: &CertificateDer<'_>) -> Option<String> {
    use der::Decode;
    let certificate = x509_cert::Certificate::from_der(certificate).ok()?;
    let uid = der::asn1::ObjectIdentifier::new("0.9.2342.19200300.100.1.1").ok()?;
    let names = certificate.tbs_certificate.subject.0.iter().flat_map(|rdn| rdn.0.iter());
    let value = names.filter(|name| name.oid == uid).map(|name| name.value.value()).next()?;
    String::from_utf8(value.to_vec()).ok()
}
