//! Ids: UUIDv7 that carry their bucket, so that an id alone says where its row lies.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;

/// How many buckets the per-device tables are spread over; part of the schema, never changed.
pub const BUCKETS: i64 = 64;

/// A UUIDv7 (RFC 9562). The last six bits are the bucket: random for a device, its device's for everything that belongs to it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(transparent)]
#[schema(value_type = String, example = "0198f3a2-7c4e-7b1a-9f00-3c2d1e0f4a5b")]
pub struct Id(Uuid);

impl Id {
    /// Builds an id from Unix milliseconds and ten random bytes.
    pub fn v7(at_ms: i64, random: [u8; 10]) -> Id {
        let millis = u64::try_from(at_ms).unwrap_or(0);
        Id(uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid())
    }

    /// An id that is the same whenever it is made from the same parts: a task's from (job, channel, attempt). It carries `at_ms`
    /// as its time and lies in the bucket of `beside`. Those of one time sort as what they are beside does, roughly: what is made for
    /// a million devices one after the other is appended to each index instead of being strewn over it.
    pub fn derived(at_ms: i64, beside: Id, parts: &[&str]) -> Id {
        let mut digest = Sha256::new();
        for part in parts {
            digest.update(part.as_bytes());
            digest.update([0]);
        }
        let mut random = [0; 10];
        random.copy_from_slice(&digest.finalize()[..10]);
        // The 26 bits behind the time that are not the version's and the variant's: a year in halves of a second. 42 bits of the digest are left
        // to tell apart what is beside devices of the same half second and bucket.
        let order = (beside.at_ms() >> 9) as u64;
        random[0] = (order >> 22) as u8;
        random[1] = (order >> 14) as u8;
        random[2] = (order >> 8) as u8 & 0x3f;
        random[3] = order as u8;
        Id::v7(at_ms, random).in_bucket_of(beside)
    }

    /// Not later than any id made at or after `at_ms`: ids before it are older.
    pub fn first_of(at_ms: i64) -> Id {
        Id::v7(at_ms, [0; 10])
    }

    /// The same id moved into the bucket of `other`.
    pub fn in_bucket_of(self, other: Id) -> Id {
        self.in_bucket(other.0.as_bytes()[15] & 0x3f)
    }

    fn in_bucket(self, bucket: u8) -> Id {
        let mut bytes = *self.0.as_bytes();
        bytes[15] = (bytes[15] & 0xc0) | bucket;
        Id(Uuid::from_bytes(bytes))
    }

    /// The same id in each of the buckets: one of them is what it is after its device was merged into another.
    pub fn in_each_bucket(self) -> impl Iterator<Item = Id> {
        (0..=0x3f).map(move |bucket| self.in_bucket(bucket))
    }

    /// 0..63: the first column of the primary key of every per-device table.
    pub fn bucket(self) -> i64 {
        i64::from(self.0.as_bytes()[15] & 0x3f)
    }

    /// True for every id that was made here; what is read from a text may be any UUID.
    pub fn is_v7(self) -> bool {
        self.0.get_version_num() == 7
    }

    /// The bytes, for hashing.
    pub fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }

    /// Unix milliseconds at which the id was made.
    pub fn at_ms(self) -> i64 {
        let b = self.0.as_bytes();
        b[..6].iter().fold(0, |ms, byte| (ms << 8) | i64::from(*byte))
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Id {
    type Err = uuid::Error;
    fn from_str(text: &str) -> Result<Id, uuid::Error> {
        Uuid::try_parse(text).map(Id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_beside_a_device_shares_its_bucket_and_keeps_its_time() {
        let device = Id::v7(1_000, [7; 10]);
        let task = Id::v7(2_000, [9; 10]).in_bucket_of(device);
        assert_eq!(task.bucket(), device.bucket());
        assert_eq!(task.at_ms(), 2_000);
    }

    #[test]
    fn a_derived_id_is_stable_and_depends_on_every_part() {
        let device = Id::v7(1_000, [7; 10]);
        let one = Id::derived(5, device, &["job", "channel", "1"]);
        assert_eq!(one, Id::derived(5, device, &["job", "channel", "1"]));
        assert_ne!(one, Id::derived(5, device, &["job", "channel", "2"]));
        assert_ne!(one, Id::derived(5, device, &["jobc", "hannel", "1"]));
    }

    #[test]
    fn derived_ids_of_one_time_sort_as_the_devices_that_they_are_beside() {
        let device = |n: i64| Id::v7(1_800_000_000_000 + n * 512, [u8::try_from(n * 97 % 251).unwrap(); 10]);
        let ids: Vec<Id> = (0..1_000).map(|n| Id::derived(5, device(n), &[&n.to_string()])).collect();
        assert!(ids.is_sorted());
        assert!(ids.iter().enumerate().all(|(n, id)| id.at_ms() == 5 && id.bucket() == device(n as i64).bucket()));
    }
}
