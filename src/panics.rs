//! Panics of dependencies at bad input, as errors.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};

thread_local! {
    static CATCHES: Cell<bool> = const { Cell::new(false) };
}

/// Runs `f`, which leaves nothing half done behind that others see, and gives the message of its panic if it panics.
///
/// # Errors
/// When `f` panics. Nothing is printed about that once [`hide_caught`] was called.
pub fn catch<T>(f: impl FnOnce() -> T) -> Result<T, String> {
    let before = CATCHES.replace(true);
    let result = catch_unwind(AssertUnwindSafe(f));
    CATCHES.set(before);
    result.map_err(|payload| message(&*payload))
}

/// What a panic said.
pub fn message(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned())
}

/// From here on, panics that [`catch`] catches do not reach the hook that is set now: for programs, since whoever reads
/// the error needs no trace beside it.
pub fn hide_caught() {
    let hook = take_hook();
    set_hook(Box::new(move |info| {
        if !CATCHES.get() {
            hook(info);
        }
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_of_a_panic_is_the_error() {
        assert_eq!(catch(|| 7), Ok(7));
        assert_eq!(catch(|| -> u8 { panic!("at {}", 3) }), Err("at 3".to_owned()));
        assert_eq!(catch(|| catch(|| -> u8 { panic!("inner") })), Ok(Err("inner".to_owned())));
        assert!(!CATCHES.get());
    }
}
