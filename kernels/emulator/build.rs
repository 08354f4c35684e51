//! Gives the shared library the name under which programs ask for the CUDA driver.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("linux") {
        // Once it is loaded by path, `dlopen("libcuda.so.1")`, which cudarc and NVRTC call, finds it by this name.
        println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libcuda.so.1");
    }
}
