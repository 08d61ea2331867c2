use std::ffi::c_void;

use super::Error;
use super::api::Api;
use super::ffi::{self, Struct};

/// Something a device will have done at some time.
pub(super) struct Event {
    api: Api,
    ptr: *mut ffi::PJRT_Event,
}

// SAFETY: events may be waited for and destroyed on any thread.
unsafe impl Send for Event {}
// SAFETY: as above; no method changes the event.
unsafe impl Sync for Event {}

impl Event {
    /// # Safety
    /// `ptr` is an event of this plugin that nobody else destroys.
    pub unsafe fn new(api: Api, ptr: *mut ffi::PJRT_Event) -> Self {
        Event { api, ptr }
    }

    /// Blocks until the event happened.
    ///
    /// # Errors
    /// The error of the work that the event stands for.
    pub fn wait(&self) -> Result<(), Error> {
        // SAFETY: the event is live until drop.
        unsafe { self.api.call(ffi::PJRT_Event_Await_Args { event: self.ptr, ..Struct::zeroed() }) }.map(drop)
    }

    pub fn is_ready(&self) -> Result<bool, Error> {
        // SAFETY: the event is live until drop.
        unsafe { self.api.call(ffi::PJRT_Event_IsReady_Args { event: self.ptr, ..Struct::zeroed() }) }
            .map(|args| args.is_ready)
    }

    /// Drops `held` when the event has happened, on whichever thread that is.
    pub fn hold<T: Send + 'static>(self, held: T) -> Result<(), Error> {
        struct Held<T>(T, Event);

        unsafe extern "C" fn release<T>(error: *mut ffi::PJRT_Error, held: *mut c_void) {
            // SAFETY: the box below, handed over by the one call of this callback.
            let held = unsafe { Box::from_raw(held.cast::<Held<T>>()) };
            // SAFETY: the callback owns the error. It also reaches whoever waits for the data itself.
            if let Err(error) = unsafe { held.1.api.check("PJRT_Event_OnReady", error) } {
                tracing::debug!("{error}");
            }
        }

        let (api, event) = (self.api, self.ptr);
        let held = Box::into_raw(Box::new(Held(held, self)));
        let callback: ffi::PJRT_Event_OnReadyCallback = Some(release::<T>);
        // SAFETY: the callback runs exactly once, perhaps before this returns, and takes the box. It gets the
        // event with the box, so the event outlives the wait.
        let result = unsafe {
            api.call(ffi::PJRT_Event_OnReady_Args {
                event,
                callback,
                user_arg: held.cast(),
                ..Struct::zeroed()
            })
        };
        if result.is_err() {
            // SAFETY: the callback was not registered, so the box is still ours.
            let held = unsafe { Box::from_raw(held) };
            held.1.wait()?;
        }
        Ok(())
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: this is the event's only owner.
        unsafe { self.api.destroy(ffi::PJRT_Event_Destroy_Args { event: self.ptr, ..Struct::zeroed() }) }
    }
}
