use proptest::prelude::*;

use super::pki::certificate::{Purpose, Wanted};
use super::pki::request::Request;
use super::pki::{Key, oids};
use super::*;
use crate::clock::Moment;

const BODY: &[u8] = include_bytes!("fixtures/body.xml");
const DETACHED: [(&str, &[u8]); 5] = [
    ("RSA, SHA-256", include_bytes!("fixtures/rsa_sha256.der")),
    ("RSA, SHA-1, no attributes", include_bytes!("fixtures/rsa_sha1_bare.der")),
    ("RSA, SHA-512, by key identifier", include_bytes!("fixtures/rsa_sha512_key_id.der")),
    ("P-256", include_bytes!("fixtures/p256.der")),
    ("P-384", include_bytes!("fixtures/p384.der")),
];
const EMBEDDED: &[u8] = include_bytes!("fixtures/rsa_sha1_indefinite.ber");
const ENVELOPES: [(&[u8], Cipher); 5] = [
    (include_bytes!("fixtures/env_des.der"), Cipher::Des),
    (include_bytes!("fixtures/env_des3.der"), Cipher::Des3),
    (include_bytes!("fixtures/env_aes128.der"), Cipher::Aes128),
    (include_bytes!("fixtures/env_aes-256-cbc.der"), Cipher::Aes256),
    (include_bytes!("fixtures/env_indefinite.ber"), Cipher::Aes128),
];

fn throwaway() -> (Certificate, Key) {
    let certificate = Certificate::chain_from_pem(include_str!("fixtures/throwaway.pem")).unwrap().remove(0);
    (certificate, Key::from_pem(include_str!("fixtures/throwaway.key")).unwrap())
}

#[test]
fn what_openssl_signs_is_verified_and_another_body_is_not() {
    for (name, bytes) in DETACHED {
        let signed = SignedData::parse(bytes).unwrap();
        let verified = signed.verify(Some(BODY)).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!((verified.content.as_slice(), &verified.certificate), (BODY, &signed.certificates()[0]), "{name}");
        assert_eq!(signed.verify(Some(b"another body")).unwrap_err(), PkiError::Signature, "{name}");
        assert!(signed.verify(None).is_err(), "{name}");
    }
}

#[test]
fn indefinite_lengths_and_content_inside_are_read_and_must_be_what_was_said() {
    assert_eq!(EMBEDDED[..2], [0x30, 0x80]);
    let signed = SignedData::parse(EMBEDDED).unwrap();
    assert_eq!(signed.verify(None).unwrap().content, BODY);
    assert_eq!(signed.verify(Some(BODY)).unwrap().content, BODY);
    assert_eq!(signed.verify(Some(b"another body")).unwrap_err(), PkiError::Signature);
}

#[test]
fn no_byte_of_a_signed_message_can_be_changed_so_that_another_signs_or_says_something_else() {
    let right = SignedData::parse(DETACHED[0].1).unwrap().verify(Some(BODY)).unwrap();
    let mut refused = 0;
    for at in 0..DETACHED[0].1.len() {
        let mut bytes = DETACHED[0].1.to_vec();
        bytes[at] ^= 0x01;
        match SignedData::parse(&bytes).and_then(|signed| signed.verify(Some(BODY))) {
            // Versions, parameters and the certificate's own signature are not what this signature is about.
            Ok(verified) => assert_eq!((verified.content, verified.certificate.spki()), (BODY.to_vec(), right.certificate.spki()), "{at}"),
            Err(_) => refused += 1,
        }
    }
    assert!(refused > 700, "{refused}");
}

#[test]
fn envelopes_of_every_cipher_open_and_every_way_to_fail_is_the_same() {
    let (certificate, key) = throwaway();
    let mut moment = Moment::fixed(0, 1);
    for (bytes, cipher) in ENVELOPES {
        let envelope = Enveloped::parse(bytes).unwrap();
        assert_eq!((envelope.cipher(), envelope.open(&mut moment, &certificate, &key).unwrap().as_slice()), (cipher, BODY));
    }
    let stranger = SignedData::parse(DETACHED[3].1).unwrap().certificates()[0].clone();
    let envelope = Enveloped::parse(ENVELOPES[2].0).unwrap();
    assert_eq!(envelope.open(&mut moment, &stranger, &key).unwrap_err(), PkiError::Undecryptable);
    let (_, key_of_another) = other();
    assert!(envelope.open(&mut moment, &certificate, &key_of_another).map_or_else(|e| e == PkiError::Undecryptable, |body| body != BODY));
    let mut cut = ENVELOPES[2].0.to_vec();
    let last = cut.len() - 1;
    cut[last] ^= 0xff;
    let envelope = Enveloped::parse(&cut).unwrap();
    assert!(envelope.open(&mut moment, &certificate, &key).map_or_else(|e| e == PkiError::Undecryptable, |body| body != BODY));
}

fn other() -> (Certificate, Key) {
    let mut moment = Moment::fixed(1_800_000_000_000, 2);
    let key = Key::make(&mut moment).unwrap();
    let spki = key.spki().unwrap();
    let wanted = Wanted { purpose: Purpose::Ca, common_name: "another", spki: &spki, life_ms: 86_400_000 };
    (Certificate::issue(&mut moment, None, &key, &wanted).unwrap(), key)
}

#[test]
fn what_is_signed_and_sealed_here_is_read_here() {
    let (certificate, key) = other();
    let signing = Signing { certificate: &certificate, key: &key, chain: &[throwaway().0], now_ms: 1_800_000_000_000 };
    let text = tlv::wrap(tlv::PRINTABLE_STRING, &[b"19"]);
    let made = signing.sign(BODY, &[(oids::CHALLENGE_PASSWORD, text)]).unwrap();
    let signed = SignedData::parse(&made).unwrap();
    assert_eq!(signed.certificates().len(), 2);
    let verified = signed.verify(None).unwrap();
    assert_eq!(verified.attributes.get(oids::CHALLENGE_PASSWORD), Some((tlv::PRINTABLE_STRING, b"19".as_slice())));
    SignedData::parse(&signing.sign_detached(BODY).unwrap()).unwrap().verify(Some(BODY)).unwrap();
    for cipher in Cipher::ALL {
        let mut moment = Moment::fixed(0, 3);
        let sealed = Enveloped::seal(&mut moment, &certificate, cipher, BODY).unwrap();
        assert_eq!(Enveloped::parse(&sealed).unwrap().open(&mut moment, &certificate, &key).unwrap(), BODY);
    }
    let listed = SignedData::parse(&certificates_only(&[throwaway().0, certificate.clone()])).unwrap();
    assert_eq!(listed.certificates(), [throwaway().0, certificate]);
    assert!(listed.verify(None).is_err());
}

#[test]
fn a_ca_issues_what_chains_to_it_alone_and_never_beyond_its_own_end() {
    let (ca, key) = other();
    assert!(ca.is_issued_by(&ca) && ca.is_ca());
    let (_, device) = throwaway();
    let spki = device.spki().unwrap();
    let wanted = Wanted { purpose: Purpose::Device, common_name: "a device", spki: &spki, life_ms: i64::MAX };
    let mut moment = Moment::fixed(1_800_000_000_000, 4);
    let issued = Certificate::issue(&mut moment, Some(&ca), &key, &wanted).unwrap();
    assert!(issued.is_issued_by(&ca) && !issued.is_ca() && issued.until_ms() == ca.until_ms());
    assert!(issued.is_valid_at(1_800_000_000_000) && !issued.is_valid_at(ca.until_ms() + 1));
    let lower = Certificate::issue(&mut moment, Some(&issued), &device, &wanted).unwrap();
    assert!(!lower.is_issued_by(&issued), "a device is no CA");
    // The same name, another key.
    let wanted = Wanted { purpose: Purpose::Ca, common_name: "another", ..wanted };
    let fake = Certificate::issue(&mut moment, None, &device, &Wanted { life_ms: 86_400_000, ..wanted }).unwrap();
    assert!(fake.subject() == ca.subject() && !issued.is_issued_by(&fake));
    assert_eq!(Certificate::chain_from_pem(&(issued.to_pem() + &ca.to_pem())).unwrap(), [issued, ca]);
}

#[test]
fn a_request_is_signed_by_the_key_that_it_names() {
    let (certificate, key) = throwaway();
    let made = Request::make(&key, certificate.subject(), Some("a challenge")).unwrap();
    let read = Request::from_der(&made).unwrap();
    assert_eq!((read.challenge.as_deref(), read.spki.as_slice()), (Some("a challenge"), certificate.spki()));
    assert!(!format!("{read:?}").contains("a challenge"));
    assert_eq!(Request::from_der(&Request::make(&key, certificate.subject(), None).unwrap()).unwrap().challenge, None);
    for at in 0..made.len() {
        let mut bytes = made.clone();
        bytes[at] ^= 0x01;
        // The parameters of the algorithm, which has none, are not what is asked.
        assert!(Request::from_der(&bytes).map_or(true, |other| other == read), "{at}");
    }
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200), at in 0usize..1500, byte in any::<u8>()) {
        SignedData::parse(&bytes).ok();
        Enveloped::parse(&bytes).ok();
        Certificate::from_der(&bytes).ok();
        let mut near = DETACHED[0].1.to_vec();
        let at = at % near.len();
        near[at] = byte;
        if let Ok(signed) = SignedData::parse(&near) {
            signed.verify(Some(BODY)).ok();
        }
        near.truncate(at);
        prop_assert!(SignedData::parse(&near).is_err());
    }
}
