use std::fmt;
use std::panic::Location;

pub type Result<T> = std::result::Result<T, Error>;

/// An operation that cannot be built: what it expected and what it got, and where in the model.
#[derive(Clone)]
pub struct Error(Box<Detail>);

#[derive(Clone)]
struct Detail {
    message: String,
    scope: String,
    location: &'static Location<'static>,
}

impl Error {
    pub(crate) fn new(message: impl Into<String>, scope: &str, location: &'static Location<'static>) -> Self {
        Error(Box::new(Detail { message: message.into(), scope: scope.to_owned(), location }))
    }

    /// `expects …, got …`, without the place.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The layer, such as `llm/layers/attn`; empty at the top.
    pub fn scope(&self) -> &str {
        &self.0.scope
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Detail { message, scope, location } = &*self.0;
        write!(f, "{message}, at ")?;
        if !scope.is_empty() {
            write!(f, "{scope} ")?;
        }
        write!(f, "({}:{})", location.file(), location.line())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for Error {}
