//! Why a device may not go on.

/// A reason for which a device and its channels are denied, weakest first: a stronger one takes the place of a weaker one, never the
/// other way round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Denial {
    /// Its user is disabled; lifted when the user is enabled again.
    UserDisabled,
    /// An operator took its authorization away.
    Operator,
    /// It came in by an enrollment token that was revoked with quarantine.
    Quarantined,
    /// Its user is deleted.
    UserDeleted,
    /// It was retired.
    Retired,
}

impl Denial {
    /// Every denial, weakest first.
    pub const ALL: [Denial; 5] = [Denial::UserDisabled, Denial::Operator, Denial::Quarantined, Denial::UserDeleted, Denial::Retired];

    /// How the store and the API name it.
    pub fn name(self) -> &'static str {
        match self {
            Denial::UserDisabled => "user_disabled",
            Denial::Operator => "operator",
            Denial::Quarantined => "quarantined",
            Denial::UserDeleted => "user_deleted",
            Denial::Retired => "retired",
        }
    }

    /// The denial of that name.
    pub fn named(name: &str) -> Option<Denial> {
        Denial::ALL.into_iter().find(|denial| denial.name() == name)
    }

    /// True where the device's data goes too, so that nothing more is asked of it.
    pub fn is_for_good(self) -> bool {
        matches!(self, Denial::UserDeleted | Denial::Retired)
    }

    /// What its app is told to do: to delete its data, or to sign out and clear its cache.
    pub fn action(self) -> &'static str {
        if self.is_for_good() { "wipe_app_data" } else { "sign_out" }
    }

    /// True where what the policies gave goes too: the phone's user is gone, for now or for good, or the phone is. Who was only signed out keeps it.
    pub fn takes_apps(self) -> bool {
        matches!(self, Denial::UserDisabled | Denial::UserDeleted | Denial::Retired)
    }

    /// True where the hardware itself is shut out, whoever carries it. A phone whose user is disabled or deleted may come with
    /// another user, if an operator admits it.
    pub fn bars_hardware(self) -> bool {
        matches!(self, Denial::Operator | Denial::Quarantined | Denial::Retired)
    }
}
