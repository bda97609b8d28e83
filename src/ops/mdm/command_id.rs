//! The ids of commands: a task's own id, with the number of its command where there were some before.

use crate::model::Id;

/// The id of the command that a task sends next.
pub fn of(task: Id, own: Option<&str>, step: u32) -> String {
    match (own, step) {
        (Some(own), _) => own.to_owned(),
        (None, 0) => task.to_string(),
        (None, step) => format!("{task}.{step}"),
    }
}

/// The task and the number of a command's id; `None` for an id that is none of a task's.
pub fn read(command: &str) -> Option<(Id, u32)> {
    let (task, step) = match command.split_once('.') {
        Some((task, step)) => (task, step.parse().ok()?),
        None => (command, 0),
    };
    // Commands are named in one spelling: what the device echoes is what it was given.
    let id: Id = task.parse().ok()?;
    // All of ours are of version 7: a UUID of another kind is an operator's.
    (id.is_v7() && of(id, None, step) == command).then_some((id, step))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_reads_back_and_another_spelling_is_none() {
        let task = Id::v7(1, [0xab; 10]);
        for step in [0, 1, 12] {
            assert_eq!(read(&of(task, None, step)), Some((task, step)));
        }
        assert_eq!(of(task, Some("x"), 0), "x");
        for other in
            ["x", "", "6b6f0a4e-54a5-4f6c-9d2c-0f2f5b1b8f60", &task.to_string().to_uppercase(), &format!("{task}.0"), &format!("{task}.x")]
        {
            assert_eq!(read(other), None, "{other}");
        }
    }
}
