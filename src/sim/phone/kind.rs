//! What a phone is: Android with our agent as its owner, or an iPhone with our app.

/// The kind of a phone: what it says of itself, and what its system lets it do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The agent owns the device, hears from FCM and syncs by itself at its points.
    Android,
    /// An app on iOS, hears from APNs. The system gives it no clock: it comes when it is pushed, when the phone has been away, and when
    /// somebody opens it.
    IosApp { bundle: String },
}

impl Kind {
    /// The agent protocol's word for the platform.
    pub fn platform(&self) -> &'static str {
        match self {
            Kind::Android => "android",
            Kind::IosApp { .. } => "ios",
        }
    }

    /// The agent protocol's word for where its pushes come from.
    pub fn push_provider(&self) -> &'static str {
        match self {
            Kind::Android => "fcm",
            Kind::IosApp { .. } => "apns",
        }
    }

    /// The agent protocol's word for the power over the device.
    pub fn management_mode(&self) -> &'static str {
        match self {
            Kind::Android => "device_owner",
            Kind::IosApp { .. } => "app",
        }
    }

    /// The app's id, where it is not the agent's default.
    pub fn app(&self) -> Option<&str> {
        match self {
            Kind::Android => None,
            Kind::IosApp { bundle } => Some(bundle),
        }
    }

    /// Whether the phone comes by itself at the time that it was told.
    pub fn keeps_time(&self) -> bool {
        *self == Kind::Android
    }
}
