use std::fmt;

use super::ffi::{self, Padded, Struct};
use super::{Buffer, Client, CompiledProgram, Device, Error, api};

/// An argument of [`Executable::execute`].
///
/// A donated buffer is given away: the program may write its results into that memory (where the program's
/// `input_output_alias` says so), and it is freed otherwise. Using it afterwards does not compile:
///
/// ```compile_fail,E0382
/// use paligemma::runtime::{Arg, Buffer, Error, Executable};
///
/// fn step(executable: &Executable, state: Buffer) -> Result<(), Error> {
///     let new_state = executable.execute(vec![Arg::Donate(state)])?;
///     state.download()?; // borrow of moved value: `state`
///     Ok(())
/// }
/// ```
#[derive(Debug)]
pub enum Arg<'a> {
    /// Give the buffer away.
    Donate(Buffer),
    /// Use the buffer and leave it as it is, even where the program would alias it.
    Keep(&'a Buffer),
}

impl Arg<'_> {
    pub(super) fn buffer(&self) -> &Buffer {
        match self {
            Arg::Donate(buffer) => buffer,
            Arg::Keep(buffer) => buffer,
        }
    }
}

/// A compiled program, loaded on its devices.
pub struct Executable {
    compiled: CompiledProgram,
    devices: Vec<Device>,
    num_outputs: usize,
    loaded: Loaded,
}

struct Loaded {
    client: Client,
    ptr: *mut ffi::PJRT_LoadedExecutable,
}

// SAFETY: PJRT executables may be used from any thread.
unsafe impl Send for Loaded {}
// SAFETY: as above; executing does not change the executable.
unsafe impl Sync for Loaded {}

impl Drop for Loaded {
    fn drop(&mut self) {
        let args = ffi::PJRT_LoadedExecutable_Destroy_Args { executable: self.ptr, ..Struct::zeroed() };
        // SAFETY: this is its only owner; PJRT keeps what a run in flight still uses.
        unsafe { self.client.0.api.destroy(args) }
    }
}

impl Executable {
    /// # Safety
    /// `ptr` is an executable of this client that nobody else destroys.
    pub(super) unsafe fn new(client: Client, ptr: *mut ffi::PJRT_LoadedExecutable) -> Result<Self, Error> {
        let api = client.0.api;
        let loaded = Loaded { client, ptr };
        // SAFETY: the executable is live, the list of its devices lives as long as it does, and the unloaded
        // executable is made for this caller.
        let (compiled, devices) = unsafe {
            let args = api.call(ffi::PJRT_LoadedExecutable_GetExecutable_Args {
                loaded_executable: ptr,
                ..Struct::zeroed()
            })?;
            let compiled = CompiledProgram::new(api, args.executable);
            let args = api.call(ffi::PJRT_LoadedExecutable_AddressableDevices_Args {
                executable: ptr,
                ..Struct::zeroed()
            })?;
            (compiled, api::slice(args.addressable_devices, args.num_addressable_devices))
        };
        let devices = devices.iter().filter_map(|&device| loaded.client.device_at(device)).collect();
        let num_outputs = compiled.num_outputs()?;
        Ok(Executable { compiled, devices, num_outputs, loaded })
    }

    /// What the compiler made: memory it needs, what it costs, its bytes.
    pub fn compiled(&self) -> &CompiledProgram {
        &self.compiled
    }

    pub fn client(&self) -> &Client {
        &self.loaded.client
    }

    /// The devices of this process that it runs on, in the order of
    /// [`execute_sharded`](Self::execute_sharded).
    pub fn devices(&self) -> &[Device] {
        &self.devices
    }

    /// Starts the program on its one device and returns buffers for its results, without waiting for them. An
    /// error of the computation itself surfaces where a result is waited for.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] where arguments do not fit the program's parameters. Donated buffers are
    /// gone in any case.
    pub fn execute(&self, args: Vec<Arg>) -> Result<Vec<Buffer>, Error> {
        let mut results = self.execute_sharded(vec![args])?;
        Ok(results.pop().unwrap_or_default())
    }

    /// [`execute`](Self::execute) for a program on several devices: a list of arguments for each of
    /// [`devices`](Self::devices), alike in length and donation, and a list of results for each.
    pub fn execute_sharded(&self, args: Vec<Vec<Arg>>) -> Result<Vec<Vec<Buffer>>, Error> {
        self.start(&args)
    }

    /// [`execute_sharded`](Self::execute_sharded), before it drops what is left of the donated buffers.
    pub(crate) fn start(&self, args: &[Vec<Arg>]) -> Result<Vec<Vec<Buffer>>, Error> {
        if args.len() != self.devices.len() {
            return Err(Error::WrongDeviceCount { expected: self.devices.len(), got: args.len() });
        }
        // A process may hold none of the devices of a program that runs on many.
        let Some(first) = args.first() else { return Ok(Vec::new()) };
        let keeps = kept(first);
        for (index, list) in args.iter().enumerate() {
            if list.len() != first.len() || kept(list) != keeps {
                let describe = |list: &[Arg]| format!("{} arguments, kept are {:?}", list.len(), kept(list));
                return Err(Error::UnevenArguments { index, first: describe(first), other: describe(list) });
            }
        }
        let buffers: Vec<Vec<_>> =
            args.iter().map(|list| list.iter().map(|arg| arg.buffer().ptr()).collect()).collect();
        let argument_lists: Vec<_> = buffers.iter().map(|list| list.as_ptr()).collect();
        let mut results = vec![vec![std::ptr::null_mut(); self.num_outputs]; args.len()];
        let output_lists: Vec<_> = results.iter_mut().map(|list| list.as_mut_ptr()).collect();
        let api = self.loaded.client.0.api;
        let mut options = Padded::new(ffi::PJRT_ExecuteOptions {
            non_donatable_input_indices: keeps.as_ptr(),
            num_non_donatable_input_indices: keeps.len(),
            ..Struct::zeroed()
        });
        // SAFETY: the lists have the lengths stated and live until the call returns; the buffers are live.
        unsafe {
            api.call(ffi::PJRT_LoadedExecutable_Execute_Args {
                executable: self.loaded.ptr,
                options: options.as_mut_ptr(),
                argument_lists: argument_lists.as_ptr(),
                num_devices: args.len(),
                num_args: first.len(),
                output_lists: output_lists.as_ptr(),
                ..Struct::zeroed()
            })?;
        }
        // SAFETY: the results are new buffers of this client.
        let own = |ptr| unsafe { Buffer::new(self.loaded.client.clone(), ptr) };
        // Every pointer gets its owner before an error can leave this function.
        let owned: Vec<Vec<_>> =
            results.into_iter().map(|list| list.into_iter().map(own).collect()).collect();
        owned.into_iter().map(|list| list.into_iter().collect()).collect()
    }
}

/// The positions of arguments that stay the caller's.
fn kept(args: &[Arg]) -> Vec<i64> {
    let kept = args.iter().enumerate().filter(|(_, arg)| matches!(arg, Arg::Keep(_)));
    kept.map(|(index, _)| index as i64).collect()
}

impl fmt::Debug for Executable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Executable({} results, {:?})", self.num_outputs, self.devices)
    }
}
