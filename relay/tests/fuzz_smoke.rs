//! A short run of the fuzz target for HTTP heads on the stable compiler; `proto/fuzz/README.md` tells how to go deeper with
//! libFuzzer.

#[expect(unreachable_pub, reason = "the file is shared with proto/fuzz, where these are public")]
#[path = "../../proto/fuzz/src/http_head.rs"]
mod http_head;
#[path = "../../proto/fuzz/src/smoke.rs"]
mod smoke;

#[test]
fn http_head_keeps_its_promises() {
    smoke::smoke(http_head::seeds(), http_head::run);
}
