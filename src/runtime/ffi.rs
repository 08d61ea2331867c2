//! Hand-written bindings of the part of `pjrt_c_api.h` (PJRT C API 0.81) that this crate calls.
//!
//! Names are the header's, so that they can be searched for there. Every struct starts with `struct_size`
//! and `extension_start`; the macros below add both, remember each struct's size as the header counts it
//! (up to the last field, without trailing padding), and pair every argument struct with the one function
//! that takes it. The tests compile a C probe against the header itself.
#![allow(
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    reason = "the names are those of pjrt_c_api.h"
)]

use std::ffi::{c_char, c_int, c_void};
use std::marker::PhantomData;
use std::mem::{MaybeUninit, offset_of};

/// The only major version there is.
pub const API_MAJOR: c_int = 0;

/// A struct of the API, which starts with its own size.
///
/// # Safety
/// `Self` is `repr(C)`, starts with `struct_size: usize`, and all of its bytes may be zero.
pub unsafe trait Struct: Sized {
    /// Bytes up to the end of the last field: `PJRT_…_STRUCT_SIZE`.
    const SIZE: usize;

    /// A value whose every field is zero or null, the API's "not set".
    fn zeroed() -> Self {
        // SAFETY: the trait promises that zero is valid for every byte.
        unsafe { MaybeUninit::zeroed().assume_init() }
    }
}

/// The arguments (and results) of one function.
///
/// # Safety
/// The function at `OFFSET` in [`PJRT_Api`] takes `*mut Self` and returns `*mut PJRT_Error`.
pub unsafe trait Args: Struct {
    const FUNCTION: &'static str;
    const OFFSET: usize;
}

/// A struct that states its own size, with zeros behind it.
///
/// The zeros are for plugins newer than these bindings that use fields the struct does not have, whatever
/// size it states: libtpu 0.0.40 (API 0.103) writes a twelfth figure behind the eleven of
/// [`PJRT_Executable_GetCompiledMemoryStats_Args`]. Zero is the API's "not set" for what is read.
pub struct Padded<T> {
    /// Not a `T`, so that moves keep every byte, those behind the fields too.
    words: [MaybeUninit<u64>; Padded::<()>::WORDS],
    value: PhantomData<T>,
}

impl Padded<()> {
    const WORDS: usize = 64;
}

impl<T: Struct> Padded<T> {
    const HAS_ROOM: () = assert!(size_of::<T>() + 128 <= 8 * Padded::<()>::WORDS && align_of::<T>() <= 8);

    pub fn new(value: T) -> Self {
        const { Self::HAS_ROOM };
        let mut words = [MaybeUninit::new(0); Padded::<()>::WORDS];
        // SAFETY: a `T` fits, and its fields end at `T::SIZE`; padding behind them stays zero.
        unsafe {
            std::ptr::copy_nonoverlapping(
                (&raw const value).cast::<u8>(),
                words.as_mut_ptr().cast(),
                T::SIZE,
            );
        }
        // Every struct of the API starts with its size.
        words[0] = MaybeUninit::new(T::SIZE as u64);
        Padded { words, value: PhantomData }
    }

    pub fn as_mut_ptr(&mut self) -> *mut T {
        self.words.as_mut_ptr().cast()
    }

    pub fn into_inner(self) -> T {
        // SAFETY: `new` wrote a `T` there, and a plugin writes only what the fields' types allow.
        unsafe { self.words.as_ptr().cast::<T>().read() }
    }
}

/// `(name, size, [(field, offset, size)])`, for the probe of the header.
#[cfg(test)]
pub type Layout = (&'static str, usize, &'static [(&'static str, usize, usize)]);

const fn max(a: usize, b: usize) -> usize {
    if a > b { a } else { b }
}

macro_rules! structs {
    ($table:ident: $($(#[$doc:meta])* $name:ident { $($field:ident: $type:ty),* $(,)? })*) => {
        $(
            $(#[$doc])*
            #[repr(C)]
            #[derive(Clone, Copy)]
            pub struct $name {
                pub struct_size: usize,
                pub extension_start: *mut PJRT_Extension_Base,
                $(pub $field: $type,)*
            }

            // SAFETY: fields are integers, raw pointers, optional functions and unions of those.
            unsafe impl Struct for $name {
                const SIZE: usize = {
                    #[allow(unused_mut, reason = "a struct may have no fields of its own")]
                    let mut size = 2 * size_of::<usize>();
                    $(size = max(size, offset_of!($name, $field) + size_of::<$type>());)*
                    size
                };
            }
        )*

        #[cfg(test)]
        pub const $table: &[Layout] = &[$((
            stringify!($name),
            <$name as Struct>::SIZE,
            &[$((stringify!($field), offset_of!($name, $field), size_of::<$type>()),)*],
        ),)*];
    };
}

macro_rules! functions {
    ($($function:ident: $args:ident { $($field:ident: $type:ty),* $(,)? },)*) => {
        structs! { FUNCTION_LAYOUTS: $($args { $($field: $type),* })* }

        $(
            // SAFETY: `layouts_equal_the_header` has the C compiler check this pairing.
            unsafe impl Args for $args {
                const FUNCTION: &'static str = stringify!($function);
                const OFFSET: usize = offset_of!(PJRT_Api, $function);
            }
        )*

        /// Each bound function with its argument struct and its offset in [`PJRT_Api`].
        #[cfg(test)]
        pub const FUNCTIONS: &[(&str, &str, usize)] =
            &[$((stringify!($function), stringify!($args), offset_of!(PJRT_Api, $function)),)*];
    };
}

macro_rules! api {
    ($($function:ident,)*) => {
        /// The plugin's table of functions: the whole of it in the header's order, so that each offset is
        /// right. A plugin may be older (its `struct_size` ends the table earlier) and may leave entries
        /// null.
        #[repr(C)]
        pub struct PJRT_Api {
            pub struct_size: usize,
            pub extension_start: *mut PJRT_Extension_Base,
            pub pjrt_api_version: PJRT_Api_Version,
            $(pub $function: Option<unsafe extern "C" fn()>,)*
        }
    };
}

macro_rules! opaque {
    ($($name:ident)*) => { $(#[repr(C)] pub struct $name { _private: [u8; 0] })* };
}

opaque! {
    PJRT_Extension_Base PJRT_Error PJRT_Event PJRT_Client PJRT_Device PJRT_DeviceDescription PJRT_Memory
    PJRT_Executable PJRT_LoadedExecutable PJRT_SerializedExecutable PJRT_Buffer PJRT_TopologyDescription
    PJRT_ExecuteContext
}

pub type PJRT_Error_Code = c_int;
pub type PJRT_Event_OnReadyCallback = Option<unsafe extern "C" fn(*mut PJRT_Error, *mut c_void)>;

pub type PJRT_NamedValue_Type = c_int;
pub const PJRT_NamedValue_kString: PJRT_NamedValue_Type = 0;
pub const PJRT_NamedValue_kInt64: PJRT_NamedValue_Type = 1;
pub const PJRT_NamedValue_kInt64List: PJRT_NamedValue_Type = 2;
pub const PJRT_NamedValue_kFloat: PJRT_NamedValue_Type = 3;
pub const PJRT_NamedValue_kBool: PJRT_NamedValue_Type = 4;

#[repr(C)]
#[derive(Clone, Copy)]
pub union PJRT_NamedValue_Value {
    pub string_value: *const c_char,
    pub int64_value: i64,
    pub int64_array_value: *const i64,
    pub float_value: f32,
    pub bool_value: bool,
}

pub type PJRT_Buffer_Type = c_int;
pub const PJRT_Buffer_Type_PRED: PJRT_Buffer_Type = 1;
pub const PJRT_Buffer_Type_S8: PJRT_Buffer_Type = 2;
pub const PJRT_Buffer_Type_S32: PJRT_Buffer_Type = 4;
pub const PJRT_Buffer_Type_S64: PJRT_Buffer_Type = 5;
pub const PJRT_Buffer_Type_U8: PJRT_Buffer_Type = 6;
pub const PJRT_Buffer_Type_U16: PJRT_Buffer_Type = 7;
pub const PJRT_Buffer_Type_U32: PJRT_Buffer_Type = 8;
pub const PJRT_Buffer_Type_U64: PJRT_Buffer_Type = 9;
pub const PJRT_Buffer_Type_F16: PJRT_Buffer_Type = 10;
pub const PJRT_Buffer_Type_F32: PJRT_Buffer_Type = 11;
pub const PJRT_Buffer_Type_F64: PJRT_Buffer_Type = 12;
pub const PJRT_Buffer_Type_BF16: PJRT_Buffer_Type = 13;

pub type PJRT_HostBufferSemantics = c_int;
pub const PJRT_HostBufferSemantics_kImmutableOnlyDuringCall: PJRT_HostBufferSemantics = 0;
pub const PJRT_HostBufferSemantics_kImmutableUntilTransferCompletes: PJRT_HostBufferSemantics = 1;

pub type PJRT_Buffer_MemoryLayout_Type = c_int;
pub const PJRT_Buffer_MemoryLayout_Type_Tiled: PJRT_Buffer_MemoryLayout_Type = 0;

#[repr(C)]
#[derive(Clone, Copy)]
pub union PJRT_Buffer_MemoryLayout_Value {
    pub tiled: PJRT_Buffer_MemoryLayout_Tiled,
    pub strides: PJRT_Buffer_MemoryLayout_Strides,
}

structs! { STRUCT_LAYOUTS:
    PJRT_Api_Version { major_version: c_int, minor_version: c_int }
    PJRT_NamedValue {
        name: *const c_char,
        name_size: usize,
        r#type: PJRT_NamedValue_Type,
        value: PJRT_NamedValue_Value,
        value_size: usize,
    }
    PJRT_Program { code: *mut c_char, code_size: usize, format: *const c_char, format_size: usize }
    PJRT_Buffer_MemoryLayout_Tiled {
        minor_to_major: *const i64,
        minor_to_major_size: usize,
        tile_dims: *const i64,
        tile_dim_sizes: *const usize,
        num_tiles: usize,
    }
    PJRT_Buffer_MemoryLayout_Strides { byte_strides: *const i64, num_byte_strides: usize }
    PJRT_Buffer_MemoryLayout { layout: PJRT_Buffer_MemoryLayout_Value, r#type: PJRT_Buffer_MemoryLayout_Type }
    PJRT_ExecuteOptions {
        send_callbacks: *mut c_void,
        recv_callbacks: *mut c_void,
        num_send_ops: usize,
        num_recv_ops: usize,
        launch_id: c_int,
        non_donatable_input_indices: *const i64,
        num_non_donatable_input_indices: usize,
        context: *mut PJRT_ExecuteContext,
        call_location: *const c_char,
        num_tasks: usize,
        task_ids: *mut c_int,
        incarnation_ids: *mut i64,
    }
    // The two functions on errors that return nothing.
    PJRT_Error_Destroy_Args { error: *mut PJRT_Error }
    PJRT_Error_Message_Args { error: *const PJRT_Error, message: *const c_char, message_size: usize }
}

functions! {
    PJRT_Error_GetCode: PJRT_Error_GetCode_Args { error: *const PJRT_Error, code: PJRT_Error_Code },
    PJRT_Plugin_Initialize: PJRT_Plugin_Initialize_Args {},
    PJRT_Plugin_Attributes: PJRT_Plugin_Attributes_Args {
        attributes: *const PJRT_NamedValue, num_attributes: usize,
    },
    PJRT_Event_Destroy: PJRT_Event_Destroy_Args { event: *mut PJRT_Event },
    PJRT_Event_IsReady: PJRT_Event_IsReady_Args { event: *mut PJRT_Event, is_ready: bool },
    PJRT_Event_Await: PJRT_Event_Await_Args { event: *mut PJRT_Event },
    PJRT_Event_OnReady: PJRT_Event_OnReady_Args {
        event: *mut PJRT_Event, callback: PJRT_Event_OnReadyCallback, user_arg: *mut c_void,
    },
    PJRT_Client_Create: PJRT_Client_Create_Args {
        create_options: *const PJRT_NamedValue, num_options: usize, kv_get_callback: *mut c_void,
        kv_get_user_arg: *mut c_void, kv_put_callback: *mut c_void, kv_put_user_arg: *mut c_void,
        client: *mut PJRT_Client, kv_try_get_callback: *mut c_void, kv_try_get_user_arg: *mut c_void,
    },
    PJRT_Client_Destroy: PJRT_Client_Destroy_Args { client: *mut PJRT_Client },
    PJRT_Client_PlatformName: PJRT_Client_PlatformName_Args {
        client: *mut PJRT_Client, platform_name: *const c_char, platform_name_size: usize,
    },
    PJRT_Client_PlatformVersion: PJRT_Client_PlatformVersion_Args {
        client: *mut PJRT_Client, platform_version: *const c_char, platform_version_size: usize,
    },
    PJRT_Client_ProcessIndex: PJRT_Client_ProcessIndex_Args {
        client: *mut PJRT_Client, process_index: c_int,
    },
    PJRT_Client_Devices: PJRT_Client_Devices_Args {
        client: *mut PJRT_Client, devices: *const *mut PJRT_Device, num_devices: usize,
    },
    PJRT_Client_AddressableDevices: PJRT_Client_AddressableDevices_Args {
        client: *mut PJRT_Client, addressable_devices: *const *mut PJRT_Device,
        num_addressable_devices: usize,
    },
    PJRT_Client_Compile: PJRT_Client_Compile_Args {
        client: *mut PJRT_Client, program: *const PJRT_Program, compile_options: *const c_char,
        compile_options_size: usize, executable: *mut PJRT_LoadedExecutable,
    },
    PJRT_Client_BufferFromHostBuffer: PJRT_Client_BufferFromHostBuffer_Args {
        client: *mut PJRT_Client, data: *const c_void, r#type: PJRT_Buffer_Type, dims: *const i64,
        num_dims: usize, byte_strides: *const i64, num_byte_strides: usize,
        host_buffer_semantics: PJRT_HostBufferSemantics, device: *mut PJRT_Device, memory: *mut PJRT_Memory,
        device_layout: *mut PJRT_Buffer_MemoryLayout, done_with_host_buffer: *mut PJRT_Event,
        buffer: *mut PJRT_Buffer,
    },
    PJRT_DeviceDescription_Id: PJRT_DeviceDescription_Id_Args {
        device_description: *mut PJRT_DeviceDescription, id: c_int,
    },
    PJRT_DeviceDescription_ProcessIndex: PJRT_DeviceDescription_ProcessIndex_Args {
        device_description: *mut PJRT_DeviceDescription, process_index: c_int,
    },
    PJRT_DeviceDescription_Kind: PJRT_DeviceDescription_Kind_Args {
        device_description: *mut PJRT_DeviceDescription, device_kind: *const c_char, device_kind_size: usize,
    },
    PJRT_DeviceDescription_Attributes: PJRT_DeviceDescription_Attributes_Args {
        device_description: *mut PJRT_DeviceDescription, num_attributes: usize,
        attributes: *const PJRT_NamedValue,
    },
    PJRT_Device_GetDescription: PJRT_Device_GetDescription_Args {
        device: *mut PJRT_Device, device_description: *mut PJRT_DeviceDescription,
    },
    PJRT_Device_MemoryStats: PJRT_Device_MemoryStats_Args {
        device: *mut PJRT_Device, bytes_in_use: i64, peak_bytes_in_use: i64, peak_bytes_in_use_is_set: bool,
        num_allocs: i64, num_allocs_is_set: bool, largest_alloc_size: i64, largest_alloc_size_is_set: bool,
        bytes_limit: i64, bytes_limit_is_set: bool, bytes_reserved: i64, bytes_reserved_is_set: bool,
        peak_bytes_reserved: i64, peak_bytes_reserved_is_set: bool, bytes_reservable_limit: i64,
        bytes_reservable_limit_is_set: bool, largest_free_block_bytes: i64,
        largest_free_block_bytes_is_set: bool, pool_bytes: i64, pool_bytes_is_set: bool, peak_pool_bytes: i64,
        peak_pool_bytes_is_set: bool,
    },
    PJRT_Executable_Destroy: PJRT_Executable_Destroy_Args { executable: *mut PJRT_Executable },
    PJRT_Executable_Name: PJRT_Executable_Name_Args {
        executable: *mut PJRT_Executable, executable_name: *const c_char, executable_name_size: usize,
    },
    PJRT_Executable_NumReplicas: PJRT_Executable_NumReplicas_Args {
        executable: *mut PJRT_Executable, num_replicas: usize,
    },
    PJRT_Executable_NumPartitions: PJRT_Executable_NumPartitions_Args {
        executable: *mut PJRT_Executable, num_partitions: usize,
    },
    PJRT_Executable_NumOutputs: PJRT_Executable_NumOutputs_Args {
        executable: *mut PJRT_Executable, num_outputs: usize,
    },
    PJRT_Executable_SizeOfGeneratedCodeInBytes: PJRT_Executable_SizeOfGeneratedCodeInBytes_Args {
        executable: *mut PJRT_Executable, size_in_bytes: i64,
    },
    PJRT_Executable_GetCostAnalysis: PJRT_Executable_GetCostAnalysis_Args {
        executable: *mut PJRT_Executable, num_properties: usize, properties: *const PJRT_NamedValue,
    },
    PJRT_Executable_GetCompiledMemoryStats: PJRT_Executable_GetCompiledMemoryStats_Args {
        executable: *mut PJRT_Executable, generated_code_size_in_bytes: i64, argument_size_in_bytes: i64,
        output_size_in_bytes: i64, alias_size_in_bytes: i64, temp_size_in_bytes: i64,
        host_generated_code_size_in_bytes: i64, host_argument_size_in_bytes: i64,
        host_output_size_in_bytes: i64, host_alias_size_in_bytes: i64, host_temp_size_in_bytes: i64,
        peak_memory_in_bytes: i64,
    },
    PJRT_Executable_OutputElementTypes: PJRT_Executable_OutputElementTypes_Args {
        executable: *mut PJRT_Executable, output_types: *mut PJRT_Buffer_Type, num_output_types: usize,
    },
    PJRT_Executable_OutputDimensions: PJRT_Executable_OutputDimensions_Args {
        executable: *mut PJRT_Executable, num_outputs: usize, dims: *const i64, dim_sizes: *const usize,
    },
    PJRT_Executable_Serialize: PJRT_Executable_Serialize_Args {
        executable: *const PJRT_Executable, serialized_bytes: *const c_char, serialized_bytes_size: usize,
        serialized_executable: *mut PJRT_SerializedExecutable,
        serialized_executable_deleter: Option<unsafe extern "C" fn(*mut PJRT_SerializedExecutable)>,
    },
    PJRT_Executable_DeserializeAndLoad: PJRT_Executable_DeserializeAndLoad_Args {
        client: *mut PJRT_Client, serialized_executable: *const c_char, serialized_executable_size: usize,
        loaded_executable: *mut PJRT_LoadedExecutable, overridden_serialized_compile_options: *const c_char,
        overridden_serialized_compile_options_size: usize,
    },
    PJRT_LoadedExecutable_Destroy: PJRT_LoadedExecutable_Destroy_Args {
        executable: *mut PJRT_LoadedExecutable,
    },
    PJRT_LoadedExecutable_GetExecutable: PJRT_LoadedExecutable_GetExecutable_Args {
        loaded_executable: *mut PJRT_LoadedExecutable, executable: *mut PJRT_Executable,
    },
    PJRT_LoadedExecutable_AddressableDevices: PJRT_LoadedExecutable_AddressableDevices_Args {
        executable: *mut PJRT_LoadedExecutable, addressable_devices: *const *mut PJRT_Device,
        num_addressable_devices: usize,
    },
    PJRT_LoadedExecutable_Execute: PJRT_LoadedExecutable_Execute_Args {
        executable: *mut PJRT_LoadedExecutable, options: *mut PJRT_ExecuteOptions,
        argument_lists: *const *const *mut PJRT_Buffer, num_devices: usize, num_args: usize,
        output_lists: *const *mut *mut PJRT_Buffer, device_complete_events: *mut *mut PJRT_Event,
        execute_device: *mut PJRT_Device,
    },
    PJRT_Buffer_Destroy: PJRT_Buffer_Destroy_Args { buffer: *mut PJRT_Buffer },
    PJRT_Buffer_ElementType: PJRT_Buffer_ElementType_Args {
        buffer: *mut PJRT_Buffer, r#type: PJRT_Buffer_Type,
    },
    PJRT_Buffer_Dimensions: PJRT_Buffer_Dimensions_Args {
        buffer: *mut PJRT_Buffer, dims: *const i64, num_dims: usize,
    },
    PJRT_Buffer_OnDeviceSizeInBytes: PJRT_Buffer_OnDeviceSizeInBytes_Args {
        buffer: *mut PJRT_Buffer, on_device_size_in_bytes: usize,
    },
    PJRT_Buffer_Device: PJRT_Buffer_Device_Args { buffer: *mut PJRT_Buffer, device: *mut PJRT_Device },
    PJRT_Buffer_OpaqueDeviceMemoryDataPointer: PJRT_Buffer_OpaqueDeviceMemoryDataPointer_Args {
        buffer: *mut PJRT_Buffer, device_memory_ptr: *mut c_void,
    },
    PJRT_Client_CreateViewOfDeviceBuffer: PJRT_Client_CreateViewOfDeviceBuffer_Args {
        client: *mut PJRT_Client, device_buffer_ptr: *mut c_void, dims: *const i64, num_dims: usize,
        element_type: PJRT_Buffer_Type, layout: *mut PJRT_Buffer_MemoryLayout, device: *mut PJRT_Device,
        on_delete_callback: Option<unsafe extern "C" fn(*mut c_void, *mut c_void)>,
        on_delete_callback_arg: *mut c_void, stream: isize, buffer: *mut PJRT_Buffer, memory: *mut PJRT_Memory,
    },
    PJRT_Buffer_IsDeleted: PJRT_Buffer_IsDeleted_Args { buffer: *mut PJRT_Buffer, is_deleted: bool },
    PJRT_Buffer_ToHostBuffer: PJRT_Buffer_ToHostBuffer_Args {
        src: *mut PJRT_Buffer, host_layout: *mut PJRT_Buffer_MemoryLayout, dst: *mut c_void, dst_size: usize,
        event: *mut PJRT_Event,
    },
    PJRT_Buffer_ReadyEvent: PJRT_Buffer_ReadyEvent_Args { buffer: *mut PJRT_Buffer, event: *mut PJRT_Event },
    PJRT_Buffer_CopyToDevice: PJRT_Buffer_CopyToDevice_Args {
        buffer: *mut PJRT_Buffer, dst_device: *mut PJRT_Device, dst_buffer: *mut PJRT_Buffer,
    },
    PJRT_TopologyDescription_Create: PJRT_TopologyDescription_Create_Args {
        topology_name: *const c_char, topology_name_size: usize, create_options: *const PJRT_NamedValue,
        num_options: usize, topology: *mut PJRT_TopologyDescription,
    },
    PJRT_TopologyDescription_Destroy: PJRT_TopologyDescription_Destroy_Args {
        topology: *mut PJRT_TopologyDescription,
    },
    PJRT_TopologyDescription_PlatformName: PJRT_TopologyDescription_PlatformName_Args {
        topology: *const PJRT_TopologyDescription, platform_name: *const c_char, platform_name_size: usize,
    },
    PJRT_TopologyDescription_GetDeviceDescriptions: PJRT_TopologyDescription_GetDeviceDescriptions_Args {
        topology: *const PJRT_TopologyDescription, descriptions: *const *mut PJRT_DeviceDescription,
        num_descriptions: usize,
    },
    PJRT_Compile: PJRT_Compile_Args {
        topology: *const PJRT_TopologyDescription, program: *const PJRT_Program,
        compile_options: *const c_char, compile_options_size: usize, client: *mut PJRT_Client,
        executable: *mut PJRT_Executable,
    },
}

api! {
    PJRT_Error_Destroy,
    PJRT_Error_Message,
    PJRT_Error_GetCode,
    PJRT_Plugin_Initialize,
    PJRT_Plugin_Attributes,
    PJRT_Event_Destroy,
    PJRT_Event_IsReady,
    PJRT_Event_Error,
    PJRT_Event_Await,
    PJRT_Event_OnReady,
    PJRT_Client_Create,
    PJRT_Client_Destroy,
    PJRT_Client_PlatformName,
    PJRT_Client_ProcessIndex,
    PJRT_Client_PlatformVersion,
    PJRT_Client_Devices,
    PJRT_Client_AddressableDevices,
    PJRT_Client_LookupDevice,
    PJRT_Client_LookupAddressableDevice,
    PJRT_Client_AddressableMemories,
    PJRT_Client_Compile,
    PJRT_Client_DefaultDeviceAssignment,
    PJRT_Client_BufferFromHostBuffer,
    PJRT_DeviceDescription_Id,
    PJRT_DeviceDescription_ProcessIndex,
    PJRT_DeviceDescription_Attributes,
    PJRT_DeviceDescription_Kind,
    PJRT_DeviceDescription_DebugString,
    PJRT_DeviceDescription_ToString,
    PJRT_Device_GetDescription,
    PJRT_Device_IsAddressable,
    PJRT_Device_LocalHardwareId,
    PJRT_Device_AddressableMemories,
    PJRT_Device_DefaultMemory,
    PJRT_Device_MemoryStats,
    PJRT_Memory_Id,
    PJRT_Memory_Kind,
    PJRT_Memory_DebugString,
    PJRT_Memory_ToString,
    PJRT_Memory_AddressableByDevices,
    PJRT_Executable_Destroy,
    PJRT_Executable_Name,
    PJRT_Executable_NumReplicas,
    PJRT_Executable_NumPartitions,
    PJRT_Executable_NumOutputs,
    PJRT_Executable_SizeOfGeneratedCodeInBytes,
    PJRT_Executable_GetCostAnalysis,
    PJRT_Executable_OutputMemoryKinds,
    PJRT_Executable_OptimizedProgram,
    PJRT_Executable_Serialize,
    PJRT_LoadedExecutable_Destroy,
    PJRT_LoadedExecutable_GetExecutable,
    PJRT_LoadedExecutable_AddressableDevices,
    PJRT_LoadedExecutable_Delete,
    PJRT_LoadedExecutable_IsDeleted,
    PJRT_LoadedExecutable_Execute,
    PJRT_Executable_DeserializeAndLoad,
    PJRT_LoadedExecutable_Fingerprint,
    PJRT_Buffer_Destroy,
    PJRT_Buffer_ElementType,
    PJRT_Buffer_Dimensions,
    PJRT_Buffer_UnpaddedDimensions,
    PJRT_Buffer_DynamicDimensionIndices,
    PJRT_Buffer_GetMemoryLayout,
    PJRT_Buffer_OnDeviceSizeInBytes,
    PJRT_Buffer_Device,
    PJRT_Buffer_Memory,
    PJRT_Buffer_Delete,
    PJRT_Buffer_IsDeleted,
    PJRT_Buffer_CopyToDevice,
    PJRT_Buffer_ToHostBuffer,
    PJRT_Buffer_IsOnCpu,
    PJRT_Buffer_ReadyEvent,
    PJRT_Buffer_UnsafePointer,
    PJRT_Buffer_IncreaseExternalReferenceCount,
    PJRT_Buffer_DecreaseExternalReferenceCount,
    PJRT_Buffer_OpaqueDeviceMemoryDataPointer,
    PJRT_CopyToDeviceStream_Destroy,
    PJRT_CopyToDeviceStream_AddChunk,
    PJRT_CopyToDeviceStream_TotalBytes,
    PJRT_CopyToDeviceStream_GranuleSize,
    PJRT_CopyToDeviceStream_CurrentBytes,
    PJRT_TopologyDescription_Create,
    PJRT_TopologyDescription_Destroy,
    PJRT_TopologyDescription_PlatformName,
    PJRT_TopologyDescription_PlatformVersion,
    PJRT_TopologyDescription_GetDeviceDescriptions,
    PJRT_TopologyDescription_Serialize,
    PJRT_TopologyDescription_Attributes,
    PJRT_Compile,
    PJRT_Executable_OutputElementTypes,
    PJRT_Executable_OutputDimensions,
    PJRT_Buffer_CopyToMemory,
    PJRT_Client_CreateViewOfDeviceBuffer,
    PJRT_Executable_Fingerprint,
    PJRT_Client_TopologyDescription,
    PJRT_Executable_GetCompiledMemoryStats,
    PJRT_Memory_Kind_Id,
    PJRT_ExecuteContext_Create,
    PJRT_ExecuteContext_Destroy,
    PJRT_Buffer_CopyRawToHost,
    PJRT_AsyncHostToDeviceTransferManager_Destroy,
    PJRT_AsyncHostToDeviceTransferManager_TransferData,
    PJRT_Client_CreateBuffersForAsyncHostToDevice,
    PJRT_AsyncHostToDeviceTransferManager_RetrieveBuffer,
    PJRT_AsyncHostToDeviceTransferManager_Device,
    PJRT_AsyncHostToDeviceTransferManager_BufferCount,
    PJRT_AsyncHostToDeviceTransferManager_BufferSize,
    PJRT_AsyncHostToDeviceTransferManager_SetBufferError,
    PJRT_AsyncHostToDeviceTransferManager_AddMetadata,
    PJRT_Client_DmaMap,
    PJRT_Client_DmaUnmap,
    PJRT_Client_CreateUninitializedBuffer,
    PJRT_Client_UpdateGlobalProcessInfo,
    PJRT_TopologyDescription_Deserialize,
    PJRT_Client_CreateAliasBuffer,
    PJRT_Client_FulfillAliasBuffer,
    PJRT_LoadedExecutable_GetDeviceAssignment,
}
