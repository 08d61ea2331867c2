use std::ffi::{c_char, c_void};
use std::mem::offset_of;

use super::ffi::{self, Args, Padded, Struct};
use super::{Error, Status};

/// A plugin's function table, checked at each use: a function that the plugin lacks is an error, not a crash.
///
/// The library behind it is never unloaded (plugins start threads that outlive every handle), hence `Copy`.
#[derive(Clone, Copy)]
pub(super) struct Api {
    table: *const ffi::PJRT_Api,
    major: i32,
    minor: i32,
}

// SAFETY: the table is constant after loading, and the C API's functions may be called from any thread.
unsafe impl Send for Api {}
// SAFETY: as above.
unsafe impl Sync for Api {}

impl Api {
    /// # Safety
    /// `table` is what a plugin's `GetPjrtApi` returned, not null, and its library stays loaded.
    pub unsafe fn new(table: *const ffi::PJRT_Api) -> Self {
        // SAFETY: every version of the table starts with its size and version.
        let version = unsafe { (&raw const (*table).pjrt_api_version).read() };
        Api { table, major: version.major_version, minor: version.minor_version }
    }

    /// Major and minor version of the C API that the plugin was built with.
    pub fn version(&self) -> (i32, i32) {
        (self.major, self.minor)
    }

    pub fn has<A: Args>(&self) -> bool {
        self.function(A::FUNCTION, A::OFFSET).is_ok()
    }

    /// Calls `A`'s function and returns its arguments with the results filled in.
    ///
    /// # Safety
    /// Every pointer in `args` is what the header asks for, for as long as it asks.
    pub unsafe fn call<A: Args>(&self, args: A) -> Result<A, Error> {
        type Typed<A> = unsafe extern "C" fn(*mut A) -> *mut ffi::PJRT_Error;
        let function = self.function(A::FUNCTION, A::OFFSET)?;
        let mut args = Padded::new(args);
        // SAFETY: `Args` pairs the function with its type; the caller vouches for the pointers.
        let error = unsafe {
            let function = std::mem::transmute::<unsafe extern "C" fn(), Typed<A>>(function);
            function(args.as_mut_ptr())
        };
        // SAFETY: the error is the plugin's, and nobody else has it.
        unsafe { self.check(A::FUNCTION, error)? };
        Ok(args.into_inner())
    }

    /// Calls a destructor. Destroying does not fail in practice; were it to, a leak is all that follows.
    ///
    /// # Safety
    /// As for [`call`](Self::call).
    pub unsafe fn destroy<A: Args>(&self, args: A) {
        // SAFETY: passed on to the caller.
        if let Err(error) = unsafe { self.call(args) } {
            tracing::warn!("{error}");
        }
    }

    /// Turns an error object into an [`Error`] and frees it.
    ///
    /// # Safety
    /// `error` is null or an error that this plugin returned and nobody freed.
    pub unsafe fn check(&self, call: &'static str, error: *mut ffi::PJRT_Error) -> Result<(), Error> {
        if error.is_null() {
            return Ok(());
        }
        // SAFETY: the error is live until it is destroyed below.
        let (code, message) = unsafe { (self.error_code(error), self.error_message(error)) };
        // SAFETY: this is its only owner.
        unsafe {
            self.call_void(
                "PJRT_Error_Destroy",
                offset_of!(ffi::PJRT_Api, PJRT_Error_Destroy),
                ffi::PJRT_Error_Destroy_Args { error, ..Struct::zeroed() },
            )?
        };
        Err(Error::from_code(code?, Status { call, message: message? }))
    }

    unsafe fn error_code(&self, error: *mut ffi::PJRT_Error) -> Result<i32, Error> {
        // Not through `call`: an error of this call is itself an error object without a reader.
        type Typed = unsafe extern "C" fn(*mut ffi::PJRT_Error_GetCode_Args) -> *mut ffi::PJRT_Error;
        let function = self.function("PJRT_Error_GetCode", ffi::PJRT_Error_GetCode_Args::OFFSET)?;
        let mut args = Padded::new(ffi::PJRT_Error_GetCode_Args { error, ..Struct::zeroed() });
        // SAFETY: the type is the header's; the caller vouches for the error.
        unsafe {
            std::mem::transmute::<unsafe extern "C" fn(), Typed>(function)(args.as_mut_ptr());
        }
        Ok(args.into_inner().code)
    }

    unsafe fn error_message(&self, error: *const ffi::PJRT_Error) -> Result<String, Error> {
        let offset = offset_of!(ffi::PJRT_Api, PJRT_Error_Message);
        let args = ffi::PJRT_Error_Message_Args { error, ..Struct::zeroed() };
        // SAFETY: the caller vouches for the error; the message lives as long as it does.
        unsafe {
            let args = self.call_void("PJRT_Error_Message", offset, args)?;
            Ok(string(args.message, args.message_size))
        }
    }

    unsafe fn call_void<A: Struct>(&self, name: &'static str, offset: usize, args: A) -> Result<A, Error> {
        let function = self.function(name, offset)?;
        let mut args = Padded::new(args);
        // SAFETY: the caller names a function that takes `A` and returns nothing.
        unsafe {
            std::mem::transmute::<unsafe extern "C" fn(), unsafe extern "C" fn(*mut A)>(function)(
                args.as_mut_ptr(),
            );
        }
        Ok(args.into_inner())
    }

    fn function(&self, name: &'static str, offset: usize) -> Result<unsafe extern "C" fn(), Error> {
        // SAFETY: the table is as long as its first word says, and an entry is a nullable function pointer.
        let entry = unsafe {
            let end = (&raw const (*self.table).struct_size).read();
            if offset + size_of::<*const c_void>() > end {
                None
            } else {
                self.table.cast::<u8>().add(offset).cast::<Option<unsafe extern "C" fn()>>().read()
            }
        };
        entry.ok_or(Error::MissingFunction { function: name, major: self.major, minor: self.minor })
    }
}

/// # Safety
/// `data` is null or points to `size` readable bytes.
pub(super) unsafe fn bytes<'a>(data: *const c_char, size: usize) -> &'a [u8] {
    if data.is_null() {
        return &[];
    }
    // SAFETY: promised by the caller.
    unsafe { std::slice::from_raw_parts(data.cast(), size) }
}

/// # Safety
/// As for [`bytes`].
pub(super) unsafe fn string(data: *const c_char, size: usize) -> String {
    // SAFETY: promised by the caller.
    String::from_utf8_lossy(unsafe { bytes(data, size) }).into_owned()
}

/// # Safety
/// `data` is null or points to `len` readable elements.
pub(super) unsafe fn slice<'a, T>(data: *const T, len: usize) -> &'a [T] {
    if data.is_null() {
        return &[];
    }
    // SAFETY: promised by the caller.
    unsafe { std::slice::from_raw_parts(data, len) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An older plugin's table ends before the function, a partial one has null in its place.
    #[test]
    fn missing_functions_are_errors_that_name_them() {
        for struct_size in [offset_of!(ffi::PJRT_Api, PJRT_Compile), size_of::<ffi::PJRT_Api>()] {
            // SAFETY: all fields are integers, raw pointers and optional functions.
            let mut table: ffi::PJRT_Api = unsafe { std::mem::zeroed() };
            table.struct_size = struct_size;
            table.pjrt_api_version.minor_version = 40;
            // SAFETY: the table outlives the calls below, which find no function in it.
            let error = unsafe { Api::new(&table).call(ffi::PJRT_Compile_Args::zeroed()) }.err().unwrap();
            assert_eq!(
                error.to_string(),
                "the plugin (PJRT C API 0.40) has no PJRT_Compile; use a newer plugin"
            );
        }
    }
}
