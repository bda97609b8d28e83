//! The chain of an MDM push certificate: whether it is Apple's, or comes from a CA that was given.
//!
//! Apple hands out the certificate alone, without its issuer, so a chain is followed as far as the file goes: every signature in it is
//! checked, and what stands at its end must be a given CA's work or bear Apple's name. A root that comes along must be Apple's own. The
//! signature of an issuer that did not come along is for APNs to check, and [`Proof`] says so; what is kept out here are certificates of
//! somebody else: the vendor's, one that was signed by itself, one of another CA, one for another use.

use super::{Certificate, Result, name};

/// SHA-256 of Apple's root, "Apple Root CA", as Apple publishes it.
const APPLE_ROOT: &str = "b0b1730ecbc7ff4505142c49f1295e6eda6bcaed7e2c68c5be91b5a11001f024";
const APPLE: &str = "Apple Inc.";
/// How the CAs are called that issue push certificates: "Apple Application Integration 2 Certification Authority" at present.
const ISSUERS: &str = "Apple Application Integration";

/// How far a chain that passed was followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// Every signature up to a given CA or to Apple's root.
    Checked,
    /// The issuer of the last certificate did not come along: it is Apple's by its name alone.
    Named,
}

/// What is wrong with a chain.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChainFault {
    #[error("the certificate is signed by itself: install the one that Apple's portal gives out for the request")]
    OwnWork,
    #[error("certificate {0} of the file did not issue the one before it: leave out what does not belong to the chain")]
    Broken(usize),
    #[error("certificate {0} of the chain is not valid at present")]
    Ended(usize),
    #[error("the certificate is not one for clients of TLS: is it a CA's, or another service's?")]
    Unfit,
    #[error("the certificate was issued by {0}, not by Apple: is it the vendor's, or another service's?")]
    Stranger(String),
}

/// Looks whether `chain`, the push certificate first, was issued by Apple or by one of `given`.
pub fn check(chain: &[Certificate], given: &[Certificate], now_ms: i64) -> Result<std::result::Result<Proof, ChainFault>> {
    let Some(first) = chain.first() else { return Ok(Err(ChainFault::Broken(1))) };
    if first.issuer() == first.subject() {
        return Ok(Err(ChainFault::OwnWork));
    }
    for (at, pair) in chain.windows(2).enumerate() {
        if !pair[0].is_issued_by(&pair[1]) {
            return Ok(Err(ChainFault::Broken(at + 2)));
        }
    }
    if let Some(at) = chain.iter().position(|certificate| !certificate.is_valid_at(now_ms)) {
        return Ok(Err(ChainFault::Ended(at + 1)));
    }
    if !first.is_for_clients() {
        return Ok(Err(ChainFault::Unfit));
    }
    if chain.iter().any(|certificate| given.iter().any(|ca| ca == certificate || certificate.is_issued_by(ca))) {
        return Ok(Ok(Proof::Checked));
    }
    let last = chain.last().unwrap_or(first);
    let has_root = last.issuer() == last.subject();
    if has_root && last.hash() != APPLE_ROOT {
        return Ok(Err(ChainFault::Stranger(shown(last.subject())?)));
    }
    let (organisation, issuer) = (name::attribute(first.issuer(), name::ORGANISATION)?, shown(first.issuer())?);
    let is_apples = organisation.as_deref() == Some(APPLE) && issuer.starts_with(ISSUERS);
    let proof = if has_root { Proof::Checked } else { Proof::Named };
    Ok(if is_apples { Ok(proof) } else { Err(ChainFault::Stranger(issuer)) })
}

/// What a name is called by.
fn shown(subject: &[u8]) -> Result<String> {
    let common = name::attribute(subject, name::COMMON_NAME)?;
    Ok(common.or(name::attribute(subject, name::ORGANISATION)?).unwrap_or_else(|| "somebody without a name".into()))
}

#[cfg(test)]
mod tests {
    use rcgen::{
        BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    };

    use super::*;

    const NOW_MS: i64 = 1_800_000_000_000;
    const DAY_MS: i64 = 86_400_000;

    fn named(organisation: &str, common_name: &str) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.distinguished_name.push(DnType::OrganizationName, organisation);
        params.not_before = rcgen::date_time_ymd(2026, 1, 1);
        params.not_after = rcgen::date_time_ymd(2028, 1, 1);
        params
    }

    /// A CA of this name, and a certificate that it issued.
    fn family(organisation: &str, common_name: &str) -> (Certificate, Certificate) {
        let (key, mut params) = (KeyPair::generate().unwrap(), named(organisation, common_name));
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = Certificate::from_der(params.self_signed(&key).unwrap().der()).unwrap();
        let leaf = named("", "APSP:1").signed_by(&KeyPair::generate().unwrap(), &Issuer::new(params, key)).unwrap();
        (ca, Certificate::from_der(leaf.der()).unwrap())
    }

    #[test]
    fn a_certificate_of_a_given_ca_passes_alone_and_with_its_chain() {
        let (ca, one) = family("A company", "A CA");
        for chain in [vec![one.clone()], vec![one.clone(), ca.clone()]] {
            assert_eq!(check(&chain, std::slice::from_ref(&ca), NOW_MS), Ok(Ok(Proof::Checked)));
            assert_eq!(check(&chain, &[], NOW_MS), Ok(Err(ChainFault::Stranger("A CA".into()))));
        }
    }

    #[test]
    fn what_is_no_chain_is_told_apart() {
        let ((ca, one), (other, _)) = (family("A company", "A CA"), family("A company", "A CA"));
        assert_eq!(check(std::slice::from_ref(&ca), &[], NOW_MS), Ok(Err(ChainFault::OwnWork)));
        assert_eq!(check(&[one.clone(), other.clone()], &[], NOW_MS), Ok(Err(ChainFault::Broken(2))), "the name alone is no issuer");
        assert_eq!(check(&[one.clone(), ca.clone(), one.clone()], &[], NOW_MS), Ok(Err(ChainFault::Broken(3))));
        assert_eq!(check(std::slice::from_ref(&one), &[ca], NOW_MS + 400 * DAY_MS), Ok(Err(ChainFault::Ended(1))));
        assert_eq!(check(&[one], &[other], NOW_MS), Ok(Err(ChainFault::Stranger("A CA".into()))));
        assert_eq!(check(&[], &[], NOW_MS), Ok(Err(ChainFault::Broken(1))));
    }

    #[test]
    fn a_certificate_for_another_use_is_none_whoever_issued_it() {
        let (key, mut params) = (KeyPair::generate().unwrap(), named("A company", "A CA"));
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = Certificate::from_der(params.self_signed(&key).unwrap().der()).unwrap();
        let issuer = Issuer::new(params, key);
        let issue = |change: &dyn Fn(&mut CertificateParams)| {
            let mut params = named("", "APSP:1");
            change(&mut params);
            let leaf = params.signed_by(&KeyPair::generate().unwrap(), &issuer).unwrap();
            check(&[Certificate::from_der(leaf.der()).unwrap()], std::slice::from_ref(&ca), NOW_MS)
        };
        let (client, server) = (ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth);
        let (signs, enciphers) = (KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment);
        assert_eq!(issue(&|params| params.extended_key_usages = vec![server.clone(), client.clone()]), Ok(Ok(Proof::Checked)));
        assert_eq!(issue(&|params| params.key_usages = vec![signs]), Ok(Ok(Proof::Checked)));
        assert_eq!(issue(&|params| params.extended_key_usages = vec![server.clone()]), Ok(Err(ChainFault::Unfit)));
        assert_eq!(issue(&|params| params.key_usages = vec![enciphers]), Ok(Err(ChainFault::Unfit)));
        assert_eq!(issue(&|params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)), Ok(Err(ChainFault::Unfit)));
    }

    #[test]
    fn apples_name_passes_and_a_root_that_only_bears_it_does_not() {
        let (ca, one) = family("Apple Inc.", "Apple Application Integration 2 Certification Authority");
        assert_eq!(check(std::slice::from_ref(&one), &[], NOW_MS), Ok(Ok(Proof::Named)));
        assert!(matches!(check(&[one, ca], &[], NOW_MS), Ok(Err(ChainFault::Stranger(_)))));
        for (organisation, name) in
            [("Apple Inc.", "Apple Worldwide Developer Relations"), ("A company", "Apple Application Integration 2")]
        {
            let (_, one) = family(organisation, name);
            assert_eq!(check(&[one], &[], NOW_MS), Ok(Err(ChainFault::Stranger(name.into()))));
        }
    }
}
