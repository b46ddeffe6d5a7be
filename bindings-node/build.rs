//! Lets the linker leave the symbols of Node-API to Node.

fn main() {
    napi_build::setup();
}
