//! What changed between two versions of a document, line by line.

/// Lines on each side that are compared one with another; more are shown as replaced as a whole.
const COMPARED_MAX: usize = 1500;
/// Equal lines shown around a change.
const AROUND: usize = 3;

/// A line of a difference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// `add`, `gone`, `same` or `cut`.
    pub class: &'static str,
    pub mark: char,
    pub text: String,
}

fn change(class: &'static str, text: &str) -> Change {
    let mark = match class {
        "add" => '+',
        "gone" => '-',
        _ => ' ',
    };
    Change { class, mark, text: text.to_owned() }
}

/// The difference from `before` to `after`; empty where there is none.
pub fn lines(before: &str, after: &str) -> Vec<Change> {
    if before == after {
        return Vec::new();
    }
    let (old, new): (Vec<&str>, Vec<&str>) = (before.lines().collect(), after.lines().collect());
    let head = old.iter().zip(&new).take_while(|(a, b)| a == b).count();
    let tail = old[head..].iter().rev().zip(new[head..].iter().rev()).take_while(|(a, b)| a == b).count();
    let mut changes: Vec<Change> = old[..head].iter().map(|line| change("same", line)).collect();
    changes.extend(middle(&old[head..old.len() - tail], &new[head..new.len() - tail]));
    changes.extend(old[old.len() - tail..].iter().map(|line| change("same", line)));
    cut(changes)
}

/// The longest common subsequence of two lists, with what is not common.
fn middle(old: &[&str], new: &[&str]) -> Vec<Change> {
    if old.len() > COMPARED_MAX || new.len() > COMPARED_MAX {
        return old.iter().map(|line| change("gone", line)).chain(new.iter().map(|line| change("add", line))).collect();
    }
    // longest[i][j]: how many lines old[i..] and new[j..] have in common.
    let width = new.len() + 1;
    let mut longest = vec![0_u16; (old.len() + 1) * width];
    for i in (0..old.len()).rev() {
        for j in (0..new.len()).rev() {
            longest[i * width + j] = if old[i] == new[j] {
                longest[(i + 1) * width + j + 1] + 1
            } else {
                longest[(i + 1) * width + j].max(longest[i * width + j + 1])
            };
        }
    }
    let (mut i, mut j) = (0, 0);
    let mut changes = Vec::new();
    while i < old.len() || j < new.len() {
        if i < old.len() && j < new.len() && old[i] == new[j] {
            changes.push(change("same", old[i]));
            i += 1;
            j += 1;
        } else if j == new.len() || (i < old.len() && longest[(i + 1) * width + j] >= longest[i * width + j + 1]) {
            changes.push(change("gone", old[i]));
            i += 1;
        } else {
            changes.push(change("add", new[j]));
            j += 1;
        }
    }
    changes
}

/// Leaves out equal lines that are far from any change.
fn cut(changes: Vec<Change>) -> Vec<Change> {
    let near = |at: usize| {
        let from = at.saturating_sub(AROUND);
        let to = (at + AROUND + 1).min(changes.len());
        changes[from..to].iter().any(|change| change.class != "same")
    };
    let mut shown = Vec::new();
    let mut cutting = false;
    for (at, one) in changes.iter().enumerate() {
        if near(at) {
            shown.push(one.clone());
            cutting = false;
        } else if !cutting {
            shown.push(change("cut", "\u{22ef}"));
            cutting = true;
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(before: &str, after: &str) -> String {
        lines(before, after).iter().map(|change| format!("{}{}\n", change.mark, change.text)).collect()
    }

    #[test]
    fn a_changed_line_is_gone_and_added_between_its_neighbours() {
        assert_eq!(told("a\nb\nc", "a\nx\nc"), " a\n-b\n+x\n c\n");
        assert_eq!(told("a\nb", "a\nb"), "");
        assert_eq!(told("", "a"), "+a\n");
        assert_eq!(told("a\nb\nc\nd", "b\nd\ne"), "-a\n b\n-c\n d\n+e\n");
    }

    #[test]
    fn far_equal_lines_are_left_out() {
        let before: String = (0..20).map(|n| format!("{n}\n")).collect();
        let after = before.replace("10\n", "ten\n");
        assert_eq!(told(&before, &after), " \u{22ef}\n 7\n 8\n 9\n-10\n+ten\n 11\n 12\n 13\n \u{22ef}\n");
    }
}
