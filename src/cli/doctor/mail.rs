//! The doctor looks at mail: whether its settings can be read, and whether its server can be reached and lets us in.

use super::Report;
use crate::config::Config;
use crate::work::mail::Post;

const CHECK: &str = "mail";

/// Connects to the mail server; sends nothing.
pub(super) async fn look(report: &mut Report, config: &Config) {
    let post = match Post::from_config(&config.mail) {
        Ok(Some(post)) => post,
        Ok(None) => return report.note(CHECK, "not set up: alarms and enrollment links are not mailed; see [mail] and [alarms]"),
        Err(why) => return report.fault(CHECK, why),
    };
    match post.reach().await {
        Ok(()) => report.ok(CHECK, "the mail server answers and lets us in"),
        Err(why) => report.fault(CHECK, format!("the mail server cannot be used: {why}")),
    }
    if config.alarms.addresses().is_empty() {
        report.note(CHECK, "[alarms] mail is not set: nobody is told of alarms by mail");
    }
}
