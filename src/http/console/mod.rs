//! The console: pages made on the server, complete without a script, kept current by one. A file for each page; the URLs are in `http`.

pub mod assets;
pub mod audit;
mod confirm;
pub mod device;
pub mod devices;
mod diff;
pub mod enrollment;
pub mod events;
mod form;
pub mod format;
pub mod jobs;
pub mod labels;
pub mod layout;
mod line;
pub mod live;
pub mod mail;
pub mod order;
pub mod overview;
pub mod policies;
pub mod policy;
pub mod settings;
pub mod sign_in;
pub mod tasks;
mod throttle;
pub mod users;
pub mod webhooks;

use std::sync::Arc;

/// What the pages of one process share. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Console {
    throttle: Arc<throttle::Throttle>,
    overview: Arc<overview::Kept>,
}
