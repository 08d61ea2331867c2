use std::fmt;
use std::str::FromStr;

use half::{bf16, f16};

use super::Error;

/// Element types, under XLA's own names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DType {
    Pred,
    S8,
    U8,
    U16,
    S32,
    U32,
    S64,
    U64,
    F16,
    BF16,
    F32,
    F64,
}

impl DType {
    pub const ALL: [DType; 12] = [
        DType::Pred,
        DType::S8,
        DType::U8,
        DType::U16,
        DType::S32,
        DType::U32,
        DType::S64,
        DType::U64,
        DType::F16,
        DType::BF16,
        DType::F32,
        DType::F64,
    ];

    /// Size of one element in bytes; `pred` takes a whole byte, as in XLA.
    pub const fn num_bytes(self) -> usize {
        match self {
            DType::Pred | DType::S8 | DType::U8 => 1,
            DType::U16 | DType::F16 | DType::BF16 => 2,
            DType::S32 | DType::U32 | DType::F32 => 4,
            DType::S64 | DType::U64 | DType::F64 => 8,
        }
    }

    pub const fn is_float(self) -> bool {
        matches!(self, DType::F16 | DType::BF16 | DType::F32 | DType::F64)
    }

    pub const fn is_integer(self) -> bool {
        matches!(self, DType::S8 | DType::U8 | DType::U16 | DType::S32 | DType::U32 | DType::S64 | DType::U64)
    }

    pub const fn is_signed(self) -> bool {
        matches!(self, DType::S8 | DType::S32 | DType::S64) || self.is_float()
    }

    /// XLA's lower-case name (`f32`, `bf16`, `pred`, …).
    pub const fn name(self) -> &'static str {
        match self {
            DType::Pred => "pred",
            DType::S8 => "s8",
            DType::U8 => "u8",
            DType::U16 => "u16",
            DType::S32 => "s32",
            DType::U32 => "u32",
            DType::S64 => "s64",
            DType::U64 => "u64",
            DType::F16 => "f16",
            DType::BF16 => "bf16",
            DType::F32 => "f32",
            DType::F64 => "f64",
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for DType {
    type Err = Error;

    /// Reads XLA's names and numpy's (`float32`, `bfloat16`, `int32`, `bool`), which configs use.
    fn from_str(name: &str) -> Result<Self, Error> {
        Ok(match name {
            "pred" | "bool" => DType::Pred,
            "s8" | "int8" => DType::S8,
            "u8" | "uint8" => DType::U8,
            "u16" | "uint16" => DType::U16,
            "s32" | "int32" => DType::S32,
            "u32" | "uint32" => DType::U32,
            "s64" | "int64" => DType::S64,
            "u64" | "uint64" => DType::U64,
            "f16" | "float16" => DType::F16,
            "bf16" | "bfloat16" => DType::BF16,
            "f32" | "float32" => DType::F32,
            "f64" | "float64" => DType::F64,
            _ => return Err(Error::UnknownDType(name.to_owned())),
        })
    }
}

/// A Rust type whose memory is an XLA element. (`pred` has none: its bytes are read as `u8`.)
pub trait Element: bytemuck::Pod + fmt::Debug {
    const DTYPE: DType;
}

macro_rules! elements {
    ($($rust:ty => $dtype:ident),*) => { $(impl Element for $rust { const DTYPE: DType = DType::$dtype; })* };
}

elements!(i8 => S8, u8 => U8, u16 => U16, i32 => S32, u32 => U32, i64 => S64, u64 => U64, f16 => F16, bf16 => BF16,
    f32 => F32, f64 => F64);
