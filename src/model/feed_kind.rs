//! The kinds of the feed's entries.

/// Every kind that an entry can have.
pub const KINDS: &[&str] = &[
    "activation.refused",
    "activation.refused_often",
    "alarm.acknowledged",
    "alarm.closed",
    "alarm.opened",
    "ca.rotated",
    "certificate.issued",
    "device.action_done",
    "device.activated",
    "device.announced",
    "device.authenticated",
    "device.authorized",
    "device.called",
    "device.changed",
    "device.deleted",
    "device.denial_lifted",
    "device.denied",
    "device.enrolled",
    "device.identity_renewed",
    "device.left",
    "device.merged",
    "device.parked",
    "device.reactivated",
    "device.replaced",
    "device.state",
    "device.token_renewed",
    "device.unauthorized",
    "device.user_enrolled",
    "enrollment_token.created",
    "enrollment_token.revoked",
    "event.device_admin_changed",
    "event.fact_changed",
    "event.malware_unresolved",
    "event.password_overdue",
    "event.profile_changed",
    "event.scan_finished",
    "event.usb_debugging_changed",
    "event.web_page_blocked",
    "finding.closed",
    "finding.opened",
    "finding.overdue",
    "job.approved",
    "job.awaiting_approval",
    "job.cancelled",
    "job.created",
    "job.done",
    "job.expanded",
    "job.rejected",
    "job.retried",
    "key.created",
    "key.revoked",
    "label.changed",
    "label.created",
    "label.deleted",
    "label.members_changed",
    "mail.failed",
    "mail.queued",
    "mail.sent",
    "operator.disabled",
    "operator.linked",
    "operator.password_set",
    "operator.signed_in",
    "operator.signed_out_everywhere",
    "policy.applied",
    "policy.assigned",
    "policy.deleted",
    "policy.drafted",
    "policy.moved",
    "policy.published",
    "push.canary_ended",
    "push.canary_ordered",
    "push.credential_removed",
    "push.credential_set",
    "server.budget_changed",
    "task.awaiting_approval",
    "task.cancelled",
    "task.delivered",
    "task.done",
    "task.expired",
    "task.failed",
    "task.late",
    "task.not_now",
    "task.progressed",
    "task.queued",
    "task.retried",
    "task.superseded",
    "user.changed",
    "user.created",
    "user.deleted",
    "webhook.created",
    "webhook.deleted",
    "webhook.disabled",
    "webhook.enabled",
    "webhook.redelivered",
    "webhook.rotated",
];

/// True where `wanted` means entries of `kind`: a whole kind (`task.done`), a first word (`task`) or a prefix (`task.*`, `*`).
pub fn is_meant(wanted: &str, kind: &str) -> bool {
    match wanted.strip_suffix('*') {
        Some(prefix) => kind.starts_with(prefix),
        None => kind.strip_prefix(wanted).is_some_and(|rest| rest.is_empty() || rest.starts_with('.')),
    }
}

/// True where the entry says that a key, or the sessions of an operator, count no more: streams that are open under any have to prove
/// again who listens.
pub fn ends_credentials(kind: &str) -> bool {
    matches!(kind, "key.revoked" | "operator.disabled" | "operator.password_set" | "operator.signed_out_everywhere")
}

/// True where some entry can be meant by `wanted`.
pub fn means_any(wanted: &str) -> bool {
    KINDS.iter().any(|kind| is_meant(wanted, kind))
}

/// What comes nearest to a word that means no entry: a whole kind, or a first word where a first word or a prefix was given.
pub fn nearest(wanted: &str) -> &'static str {
    let (word, is_prefix) = wanted.strip_suffix(".*").map_or((wanted, false), |word| (word, true));
    let words = KINDS.iter().map(|kind| match kind.split_once('.') {
        Some((first, _)) if is_prefix || !word.contains('.') => first,
        _ => kind,
    });
    words.max_by(|a, b| strsim::jaro_winkler(word, a).total_cmp(&strsim::jaro_winkler(word, b))).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_meant_whole_by_their_first_word_or_by_a_prefix_and_the_nearest_is_found() {
        for wanted in ["task.done", "task", "task.*", "*", "task.d*"] {
            assert!(is_meant(wanted, "task.done") && means_any(wanted), "{wanted}");
        }
        for (wanted, near) in [
            ("task.finished", "task.failed"),
            ("device.unauthorised", "device.unauthorized"),
            ("tasks", "task"),
            ("devices.*", "device"),
            ("polcy.published", "policy.published"),
        ] {
            assert!(!means_any(wanted), "{wanted}");
            assert_eq!(nearest(wanted), near, "{wanted}");
        }
        assert!(KINDS.is_sorted());
        assert_eq!(KINDS.iter().filter(|kind| ends_credentials(kind)).count(), 4);
    }
}
