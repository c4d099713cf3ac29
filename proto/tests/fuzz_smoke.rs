//! A short run of every fuzz target on the stable compiler: seeds, and mutations of them by a generator that says the
//! same every time. `proto/fuzz/README.md` tells how to go deeper with libFuzzer.

#[expect(unreachable_pub, reason = "the file is shared with proto/fuzz, where these are public")]
#[path = "../fuzz/src/hybrid.rs"]
mod hybrid;
#[path = "../fuzz/src/smoke.rs"]
mod smoke;
#[expect(unreachable_pub, reason = "the file is shared with proto/fuzz, where these are public")]
#[path = "../fuzz/src/tunnel_message.rs"]
mod tunnel_message;
#[expect(unreachable_pub, reason = "the file is shared with proto/fuzz, where these are public")]
#[path = "../fuzz/src/ws_frame.rs"]
mod ws_frame;

#[test]
fn ws_frame_keeps_its_promises() {
    smoke::smoke(ws_frame::seeds(), ws_frame::run);
}

#[test]
fn hybrid_keeps_its_promises() {
    smoke::smoke(hybrid::seeds(), hybrid::run);
}

#[test]
fn tunnel_message_keeps_its_promises() {
    smoke::smoke(tunnel_message::seeds(), tunnel_message::run);
}
