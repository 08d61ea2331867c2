//! Parts of buffers as buffers of their own, without copies.

use std::ffi::c_void;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use super::ffi::{self, Struct};
use super::{Buffer, Client, Error};
use crate::array::Shape;

/// Parts of memory begin at multiples of this, as XLA's CPU backend wants its arguments.
const ALIGNMENT: usize = 64;

/// How a stack is taken apart: [`Buffer::with_parts`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parting {
    /// So many first axes count parts.
    pub axes: usize,
    /// Each of those is cut into so many pieces along its first axis.
    pub pieces: usize,
    /// So many axes of a piece are the rows of a matrix and the others its columns; 0 for pieces that stay as they are.
    pub rows: usize,
}

impl Parting {
    /// How many parts a stack of this shape has, and their shape; `None` where it cannot be cut so, or the parts' memory
    /// is not aligned as that of buffers has to be.
    pub fn parts_of(self, shape: &Shape) -> Option<(usize, Shape)> {
        let (outer, inner) = shape.dims().split_at_checked(self.axes)?;
        let mut inner = inner.to_vec();
        if self.pieces > 1 {
            let first = inner.first_mut().filter(|dim| dim.is_multiple_of(self.pieces))?;
            *first /= self.pieces;
        }
        if self.rows > 0 {
            let (rows, columns) = inner.split_at_checked(self.rows)?;
            inner = vec![rows.iter().product(), columns.iter().product()];
        }
        let part = Shape::new(shape.dtype(), inner);
        let is_aligned = part.num_bytes() > 0 && part.num_bytes().is_multiple_of(ALIGNMENT);
        is_aligned.then(|| (outer.iter().product::<usize>() * self.pieces, part))
    }
}

impl Client {
    /// Whether its plugin has what [`Buffer::with_parts`] needs.
    pub fn makes_views(&self) -> bool {
        self.0.api.has::<ffi::PJRT_Client_CreateViewOfDeviceBuffer_Args>()
            && self.0.api.has::<ffi::PJRT_Buffer_OpaqueDeviceMemoryDataPointer_Args>()
    }
}

impl Buffer {
    /// Calls `run` with the parts of each stack, in order, which are views of the stack's memory: `[L, ..]` and one axis
    /// give L buffers `[..]`. A stack that cannot be cut as asked gives none. Returns once nothing uses the views any
    /// more, a program that `run` started included.
    ///
    /// # Errors
    /// Where the plugin makes no views: only the CPU's is known to.
    pub fn with_parts<R>(
        stacks: &[(&Buffer, Parting)],
        run: impl FnOnce(&[Buffer]) -> R,
    ) -> Result<R, Error> {
        let views = Views::new(stacks)?;
        Ok(run(&views.views))
    }
}

/// Views that are waited for when dropped. Must not be leaked: see [`Buffer::with_parts`], its one user.
struct Views {
    views: Vec<Buffer>,
    in_use: Arc<InUse>,
}

/// Counts views whose memory somebody may use.
#[derive(Default)]
struct InUse {
    count: Mutex<usize>,
    none: Condvar,
}

impl Views {
    fn new(stacks: &[(&Buffer, Parting)]) -> Result<Self, Error> {
        let mut views = Views { views: Vec::new(), in_use: Arc::default() };
        for (stack, parting) in stacks {
            let Some((count, part)) = parting.parts_of(stack.shape()) else { continue };
            stack.wait()?;
            let api = stack.client().0.api;
            // SAFETY: the buffer is live.
            let start = unsafe {
                api.call(ffi::PJRT_Buffer_OpaqueDeviceMemoryDataPointer_Args {
                    buffer: stack.ptr(),
                    ..Struct::zeroed()
                })?
            };
            for index in 0..count {
                let offset = index * part.num_bytes();
                // SAFETY: the part lies within the stack's dense memory.
                let memory = unsafe { start.device_memory_ptr.byte_add(offset) };
                // SAFETY: `with_parts` borrows the stack until the views are gone.
                let view = unsafe { views.in_use.view(stack.client(), memory, &part, stack)? };
                views.views.push(view);
            }
        }
        Ok(views)
    }
}

impl InUse {
    /// # Safety
    /// `memory` holds a dense `shape` on the device of `stack`, and stays until this counts none.
    unsafe fn view(
        self: &Arc<Self>,
        client: &Client,
        memory: *mut c_void,
        shape: &Shape,
        stack: &Buffer,
    ) -> Result<Buffer, Error> {
        unsafe extern "C" fn release(_memory: *mut c_void, in_use: *mut c_void) {
            // SAFETY: the pointer below, given to the one call of this callback.
            let in_use = unsafe { Arc::from_raw(in_use.cast::<InUse>()) };
            *in_use.count.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
            in_use.none.notify_all();
        }

        let api = client.0.api;
        let dims: Vec<i64> = shape.dims().iter().map(|&dim| dim as i64).collect();
        // SAFETY: the stack is live.
        let on =
            unsafe { api.call(ffi::PJRT_Buffer_Device_Args { buffer: stack.ptr(), ..Struct::zeroed() })? };
        *self.count.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        let held = Arc::into_raw(Arc::clone(self)).cast_mut().cast::<c_void>();
        // SAFETY: `dims` lives until the call returns; the caller vouches for the memory.
        let result = unsafe {
            api.call(ffi::PJRT_Client_CreateViewOfDeviceBuffer_Args {
                client: client.0.ptr,
                device_buffer_ptr: memory,
                dims: dims.as_ptr(),
                num_dims: dims.len(),
                element_type: super::buffer::to_buffer_type(shape.dtype()),
                device: on.device,
                on_delete_callback: Some(release),
                on_delete_callback_arg: held,
                ..Struct::zeroed()
            })
        };
        match result {
            // SAFETY: the view is a new buffer of this client.
            Ok(args) => unsafe { Buffer::new(client.clone(), args.buffer) },
            Err(error) => {
                // SAFETY: a view that was not made calls nothing.
                unsafe { release(memory, held) };
                Err(error)
            }
        }
    }
}

impl Drop for Views {
    fn drop(&mut self) {
        self.views.clear();
        let count = self.in_use.count.lock().unwrap_or_else(PoisonError::into_inner);
        let none = self.in_use.none.wait_while(count, |count| *count > 0);
        drop(none.unwrap_or_else(PoisonError::into_inner));
    }
}
