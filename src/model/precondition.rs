//! What a request asks of a thing before it is changed: `If-Match` and `If-None-Match` (RFC 9110, section 13.1).

/// Both headers; the default asks for nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Precondition {
    pub if_match: Option<Tags>,
    pub if_none_match: Option<Tags>,
}

/// The value of such a header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tags {
    /// `*`: whatever there is.
    Any,
    /// One of these, without their quotes. What is no tag matches nothing.
    These(Vec<String>),
}

impl Tags {
    /// Reads a header. A quoted tag, as it should be, or a bare one; a weak one only where `weak` ones count.
    pub fn read(text: &str, weak: bool) -> Tags {
        if text.trim() == "*" {
            return Tags::Any;
        }
        let tag = |text: &str| {
            let strong = text.strip_prefix("W/").filter(|_| weak).unwrap_or(text);
            strong.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(strong).to_owned()
        };
        Tags::These(text.split(',').map(str::trim).map(tag).filter(|tag| !tag.is_empty()).collect())
    }

    fn have(&self, tag: Option<&str>) -> bool {
        match self {
            Tags::Any => true,
            Tags::These(tags) => tag.is_some_and(|tag| tags.iter().any(|one| one == tag)),
        }
    }
}

impl Precondition {
    /// Asks for a thing with this tag.
    pub fn tag(tag: impl ToString) -> Precondition {
        Precondition { if_match: Some(Tags::These(vec![tag.to_string()])), if_none_match: None }
    }

    /// True where nothing is asked.
    pub fn is_none(&self) -> bool {
        *self == Precondition::default()
    }

    /// True where a thing is as it is asked to be: whether it is there, and its tag where it has one.
    pub fn holds(&self, is_there: bool, tag: Option<&str>) -> bool {
        let matched = self.if_match.as_ref().is_none_or(|wanted| is_there && wanted.have(tag));
        matched && self.if_none_match.as_ref().is_none_or(|unwanted| !(is_there && unwanted.have(tag)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_compared_strongly_and_a_star_asks_for_presence_or_absence() {
        let matching = |text: &str| Precondition { if_match: Some(Tags::read(text, false)), if_none_match: None };
        for (text, absent, second, untagged) in [
            ("*", false, true, true),
            ("\"2\"", false, true, false),
            ("2", false, true, false),
            ("\"1\", \"2\"", false, true, false),
            ("W/\"2\"", false, false, false),
            ("\"1\"", false, false, false),
            ("", false, false, false),
        ] {
            let asked = matching(text);
            assert_eq!(
                (asked.holds(false, None), asked.holds(true, Some("2")), asked.holds(true, None)),
                (absent, second, untagged),
                "{text}"
            );
        }
        let unmatched = |text: &str| Precondition { if_match: None, if_none_match: Some(Tags::read(text, true)) };
        for (text, absent, second) in [("*", true, false), ("W/\"2\"", true, false), ("\"1\"", true, true)] {
            let asked = unmatched(text);
            assert_eq!((asked.holds(false, None), asked.holds(true, Some("2"))), (absent, second), "{text}");
        }
        assert!(Precondition::default().holds(false, None) && Precondition::default().holds(true, Some("2")));
    }
}
