//! Loops that the compiler vectorizes, for the vectors of the machine at hand.

/// Defines a function whose body is compiled for AVX2 as well, which runs where the machine has that. Results are
/// the same: no operation is contracted or reordered.
macro_rules! wide {
    ($(#[$meta:meta])* fn $name:ident($($rest:tt)*) $body:block) => {
        $crate::pp::wide::wide! { @define [$(#[$meta])*] $name [] [] ($($rest)*) $body }
    };
    ($(#[$meta:meta])* fn $name:ident<const $value:ident: $kind:ty>($($rest:tt)*) $body:block) => {
        $crate::pp::wide::wide! { @define [$(#[$meta])*] $name [const $value: $kind] [$value] ($($rest)*) $body }
    };
    ($(#[$meta:meta])* fn $name:ident<$type:ident: $bound:path>($($rest:tt)*) $body:block) => {
        $crate::pp::wide::wide! { @define [$(#[$meta])*] $name [$type: $bound] [$type] ($($rest)*) $body }
    };
    (
        @define [$($meta:tt)*] $name:ident [$($generic:tt)*] [$($use:tt)*]
        ($($argument:ident: $type:ty),* $(,)?) $body:block
    ) => {
        $($meta)*
        fn $name<$($generic)*>($($argument: $type),*) {
            #[inline(always)]
            fn body<$($generic)*>($($argument: $type),*) $body

            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2")]
                fn with_avx2<$($generic)*>($($argument: $type),*) {
                    body::<$($use)*>($($argument),*);
                }
                if std::arch::is_x86_feature_detected!("avx2") {
                    // SAFETY: the machine has AVX2.
                    unsafe { with_avx2::<$($use)*>($($argument),*) };
                    return;
                }
            }
            body::<$($use)*>($($argument),*);
        }
    };
}

pub(super) use wide;
