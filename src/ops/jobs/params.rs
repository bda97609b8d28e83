//! Parameters at rest: every way in and out of the store goes through here.

use serde_json::{Value, json};

use super::NewJob;
use crate::clock::Moment;
use crate::model::{Id, kind};
use crate::seal::Seal;

/// The parameters as they are stored: secrets sealed under the job's id.
pub(super) fn store_params(moment: &mut Moment, new: &NewJob, job: Id, seal: Option<&Seal>) -> String {
    let mut params = new.params.clone();
    for name in kind::secrets(&new.kind) {
        if let Some(Value::String(secret)) = params.get(name) {
            let sealed = seal.map(|seal| seal.seal(moment, &sealed_name(job, name), secret.as_bytes())).unwrap_or_default();
            params.insert(name.to_owned(), Value::String(sealed));
        }
    }
    Value::Object(params).to_string()
}

/// The parameters as the device gets them.
pub fn load_params(seal: &Seal, kind: &str, job: Id, stored: &str) -> Value {
    let mut params: Value = serde_json::from_str(stored).unwrap_or_else(|_| json!({}));
    for name in kind::secrets(kind) {
        if let Some(Value::String(sealed)) = params.get(name) {
            let opened = seal.open(&sealed_name(job, name), sealed).ok().and_then(|bytes| String::from_utf8(bytes).ok());
            params[name] = opened.map_or(Value::Null, Value::String);
        }
    }
    params
}

fn sealed_name(job: Id, name: &str) -> String {
    format!("job/{job}/{name}")
}
