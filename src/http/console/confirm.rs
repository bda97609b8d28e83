//! The page between a wish and a deed that cannot be undone.

use askama::Template;
use axum::response::Response;

use super::layout::{Frame, Visitor, page};

#[derive(Template)]
#[template(path = "confirm.html")]
struct Confirm<'a> {
    frame: Frame,
    text: &'a str,
    action: &'a str,
    button: &'a str,
    back: &'a str,
    /// A box to tick that does more; "" for none.
    also: &'a str,
}

/// Like [`confirm`], with a box named `also` to tick for something more.
pub fn confirm_also(visitor: &Visitor, title: &str, text: &str, action: &str, button: &str, back: &str, also: &str) -> Response {
    page(&Confirm { frame: visitor.frame(title), text, action, button, back, also })
}

/// Asks whether `button` shall be done: a form that posts to `action`, and a way back.
pub fn confirm(visitor: &Visitor, title: &str, text: &str, action: &str, button: &str, back: &str) -> Response {
    confirm_also(visitor, title, text, action, button, back, "")
}
