//! The operations of `sandbox_denials` under strace, which makes calls fail from outside: every call that
//! is made, those of the allocator and of the runtime included, and each one of them alone.
//!
//! `cargo test` tries a few; `cargo xtask inject` tries all.
#![allow(clippy::result_large_err, reason = "what a failure gives back is of any size")]

macro_rules! where_operations_are_known {
    ($($item:item)*) => {
        $(
            #[cfg(all(
                target_os = "linux",
                any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64")
            ))]
            $item
        )*
    };
}

where_operations_are_known! {
    #[path = "../sandbox_denials/denier.rs"]
    #[allow(dead_code, reason = "no call is denied in this process")]
    mod denier;
    mod injection;
    #[path = "../sandbox_denials/operations.rs"]
    mod operations;
    #[path = "../support/mod.rs"]
    mod support;
    #[path = "../sandbox_denials/trial.rs"]
    #[allow(dead_code, reason = "no call is denied in this process")]
    mod trial;
    #[path = "../sandbox_denials/truth.rs"]
    mod truth;

    fn main() {
        injection::main();
    }
}

#[cfg(not(all(
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64")
)))]
fn main() {
    eprintln!("not tested: no operation can be watched here");
}
