use std::fmt;

use super::client::{Client, Device};
use super::event::Event;
use super::ffi::{self, Struct};
use super::{Error, api};
use crate::array::{DType, HostArray, Shape};

/// Memory on a device, dense and with a [`Shape`]. Freed on drop, once the device is done with it.
///
/// It may stand for a result that is still being computed: nothing waits for it until [`wait`](Self::wait) or
/// a download, and an error of that computation surfaces there.
pub struct Buffer {
    client: Client,
    ptr: *mut ffi::PJRT_Buffer,
    shape: Shape,
}

// SAFETY: PJRT buffers may be used from any thread.
unsafe impl Send for Buffer {}
// SAFETY: as above; methods that take `&self` do not change the buffer.
unsafe impl Sync for Buffer {}

impl Client {
    /// Copies an array to a device. Returns when the array was read, not when the copy is there.
    pub fn upload(&self, array: &HostArray, device: &Device) -> Result<Buffer, Error> {
        let during_call = ffi::PJRT_HostBufferSemantics_kImmutableOnlyDuringCall;
        // SAFETY: the array is borrowed for the call, which is as long as it is read.
        let (buffer, done) = unsafe { self.start_upload(array, device, during_call)? };
        drop(done);
        Ok(buffer)
    }

    /// Copies an array to a device without waiting for anything: the array is kept until it has been read.
    pub fn upload_owned(&self, array: HostArray, device: &Device) -> Result<Buffer, Error> {
        let until_done = ffi::PJRT_HostBufferSemantics_kImmutableUntilTransferCompletes;
        // SAFETY: `hold` keeps the array until the event; moving it does not move its heap memory.
        let (buffer, done) = unsafe { self.start_upload(&array, device, until_done)? };
        done.hold(array)?;
        Ok(buffer)
    }

    /// # Safety
    /// The array's memory stays as it is for as long as `semantics` says.
    unsafe fn start_upload(
        &self,
        array: &HostArray,
        device: &Device,
        semantics: ffi::PJRT_HostBufferSemantics,
    ) -> Result<(Buffer, Event), Error> {
        let dims: Vec<i64> = array.dims().iter().map(|&dim| dim as i64).collect();
        let api = self.0.api;
        // SAFETY: `dims` lives until the call returns, the array's bytes by the caller's promise. No strides
        // and no layout mean dense and row-major.
        let args = unsafe {
            api.call(ffi::PJRT_Client_BufferFromHostBuffer_Args {
                client: self.0.ptr,
                data: array.bytes().as_ptr().cast(),
                r#type: to_buffer_type(array.dtype()),
                dims: dims.as_ptr(),
                num_dims: dims.len(),
                host_buffer_semantics: semantics,
                device: device.ptr(),
                ..Struct::zeroed()
            })?
        };
        let buffer = Buffer { client: self.clone(), ptr: args.buffer, shape: array.shape().clone() };
        // SAFETY: the event was made for this caller.
        Ok((buffer, unsafe { Event::new(api, args.done_with_host_buffer) }))
    }
}

impl Buffer {
    /// # Safety
    /// `ptr` is a buffer of this client that nobody else destroys.
    pub(super) unsafe fn new(client: Client, ptr: *mut ffi::PJRT_Buffer) -> Result<Self, Error> {
        // Owned from here on, so that an error below frees it.
        let mut buffer = Buffer { client, ptr, shape: Shape::scalar(DType::Pred) };
        let api = buffer.client.0.api;
        // SAFETY: the buffer is live; its dimensions live as long as it does.
        unsafe {
            let element = api.call(ffi::PJRT_Buffer_ElementType_Args { buffer: ptr, ..Struct::zeroed() })?;
            let dims = api.call(ffi::PJRT_Buffer_Dimensions_Args { buffer: ptr, ..Struct::zeroed() })?;
            let dims = api::slice(dims.dims, dims.num_dims).iter().map(|&dim| dim as usize);
            buffer.shape = Shape::new(from_buffer_type(element.r#type)?, dims.collect::<Vec<_>>());
        }
        Ok(buffer)
    }

    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Bytes that it takes on the device, padding included.
    pub fn on_device_bytes(&self) -> Result<usize, Error> {
        let args = ffi::PJRT_Buffer_OnDeviceSizeInBytes_Args { buffer: self.ptr, ..Struct::zeroed() };
        // SAFETY: the buffer is live until drop, here and below.
        unsafe { self.client.0.api.call(args) }.map(|args| args.on_device_size_in_bytes)
    }

    /// Whether its value is there, without waiting.
    pub fn is_ready(&self) -> Result<bool, Error> {
        self.ready_event()?.is_ready()
    }

    /// Blocks until its value is there.
    ///
    /// # Errors
    /// The error of the computation or transfer that was to fill it.
    pub fn wait(&self) -> Result<(), Error> {
        self.ready_event()?.wait()
    }

    /// Copies the value to this process's memory; blocks until it is there.
    pub fn download(&self) -> Result<HostArray, Error> {
        self.start_download()?.wait()
    }

    /// Starts the copy of [`download`](Self::download) and does not wait, so that many can be under way.
    pub fn start_download(&self) -> Result<Download, Error> {
        let mut array = HostArray::zeros(self.shape.clone());
        let minor_to_major: Vec<i64> = (0..self.shape.rank() as i64).rev().collect();
        // Asked for explicitly: without it the bytes come in the device's own order, which need not be
        // row-major.
        let mut host_layout = ffi::PJRT_Buffer_MemoryLayout {
            struct_size: ffi::PJRT_Buffer_MemoryLayout::SIZE,
            r#type: ffi::PJRT_Buffer_MemoryLayout_Type_Tiled,
            layout: ffi::PJRT_Buffer_MemoryLayout_Value {
                tiled: ffi::PJRT_Buffer_MemoryLayout_Tiled {
                    struct_size: ffi::PJRT_Buffer_MemoryLayout_Tiled::SIZE,
                    minor_to_major: minor_to_major.as_ptr(),
                    minor_to_major_size: minor_to_major.len(),
                    ..Struct::zeroed()
                },
            },
            ..Struct::zeroed()
        };
        let api = self.client.0.api;
        let dst = array.bytes_mut();
        // SAFETY: `Download` keeps the array until the event, and the layout is read during the call only.
        let event = unsafe {
            let args = api.call(ffi::PJRT_Buffer_ToHostBuffer_Args {
                src: self.ptr,
                host_layout: &mut host_layout,
                dst: dst.as_mut_ptr().cast(),
                dst_size: dst.len(),
                ..Struct::zeroed()
            })?;
            Event::new(api, args.event)
        };
        Ok(Download { array: Some(array), event, _client: self.client.clone() })
    }

    /// Starts a copy to another device of the same client.
    pub fn copy_to(&self, device: &Device) -> Result<Buffer, Error> {
        let args = ffi::PJRT_Buffer_CopyToDevice_Args {
            buffer: self.ptr,
            dst_device: device.ptr(),
            ..Struct::zeroed()
        };
        // SAFETY: buffer and device are live and of one client.
        let args = unsafe { self.client.0.api.call(args)? };
        Ok(Buffer { client: self.client.clone(), ptr: args.dst_buffer, shape: self.shape.clone() })
    }

    /// Whether its memory was given up. A donated buffer's is, but donating moves the buffer out of sight, so
    /// this is false for any buffer that the caller still has.
    pub fn is_deleted(&self) -> Result<bool, Error> {
        let args = ffi::PJRT_Buffer_IsDeleted_Args { buffer: self.ptr, ..Struct::zeroed() };
        // SAFETY: the buffer is live until drop.
        unsafe { self.client.0.api.call(args) }.map(|args| args.is_deleted)
    }

    pub(super) fn ptr(&self) -> *mut ffi::PJRT_Buffer {
        self.ptr
    }

    fn ready_event(&self) -> Result<Event, Error> {
        let api = self.client.0.api;
        // SAFETY: the event is made for this caller.
        unsafe {
            let args = api.call(ffi::PJRT_Buffer_ReadyEvent_Args { buffer: self.ptr, ..Struct::zeroed() })?;
            Ok(Event::new(api, args.event))
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: this is the buffer's only owner; PJRT itself keeps memory that a computation still uses.
        unsafe {
            self.client.0.api.destroy(ffi::PJRT_Buffer_Destroy_Args { buffer: self.ptr, ..Struct::zeroed() })
        }
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer({}, {})", self.shape, self.client.platform_name())
    }
}

/// A copy to this process's memory that is under way. Dropping it waits for its end.
#[must_use = "a download is waited for when dropped"]
pub struct Download {
    /// `None` only once waited for. The device writes to its heap memory, which moves of this struct leave
    /// alone.
    array: Option<HostArray>,
    event: Event,
    /// The client's threads do the copying.
    _client: Client,
}

impl Download {
    pub fn is_ready(&self) -> Result<bool, Error> {
        self.event.is_ready()
    }

    /// Blocks until the bytes are there.
    pub fn wait(mut self) -> Result<HostArray, Error> {
        self.event.wait()?;
        Ok(self.array.take().expect("only this method takes it, and it consumes the download"))
    }
}

impl Drop for Download {
    fn drop(&mut self) {
        if self.array.is_some()
            && let Err(error) = self.event.wait()
        {
            tracing::debug!("download given up: {error}");
        }
    }
}

pub(super) fn to_buffer_type(dtype: DType) -> ffi::PJRT_Buffer_Type {
    match dtype {
        DType::Pred => ffi::PJRT_Buffer_Type_PRED,
        DType::S8 => ffi::PJRT_Buffer_Type_S8,
        DType::U8 => ffi::PJRT_Buffer_Type_U8,
        DType::U16 => ffi::PJRT_Buffer_Type_U16,
        DType::S32 => ffi::PJRT_Buffer_Type_S32,
        DType::U32 => ffi::PJRT_Buffer_Type_U32,
        DType::S64 => ffi::PJRT_Buffer_Type_S64,
        DType::U64 => ffi::PJRT_Buffer_Type_U64,
        DType::F16 => ffi::PJRT_Buffer_Type_F16,
        DType::BF16 => ffi::PJRT_Buffer_Type_BF16,
        DType::F32 => ffi::PJRT_Buffer_Type_F32,
        DType::F64 => ffi::PJRT_Buffer_Type_F64,
    }
}

pub(super) fn from_buffer_type(element: ffi::PJRT_Buffer_Type) -> Result<DType, Error> {
    DType::ALL
        .into_iter()
        .find(|&dtype| to_buffer_type(dtype) == element)
        .ok_or(Error::UnsupportedElementType(element))
}
