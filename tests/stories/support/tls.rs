//! Certificates of servers as files.

use std::path::Path;

use muster::config::Tls;

/// A certificate for `name` that signs itself, in two files of `folder`; its DER and PEM beside them.
pub struct OwnCertificate {
    pub files: Tls,
    pub der: Vec<u8>,
    pub pem: String,
}

impl OwnCertificate {
    pub fn make(folder: &Path, name: &str) -> OwnCertificate {
        let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
        let files = Tls { cert: folder.join("cert.pem"), key: folder.join("key.pem") };
        std::fs::write(&files.cert, made.cert.pem()).unwrap();
        std::fs::write(&files.key, made.signing_key.serialize_pem()).unwrap();
        OwnCertificate { files, der: made.cert.der().to_vec(), pem: made.cert.pem() }
    }
}
