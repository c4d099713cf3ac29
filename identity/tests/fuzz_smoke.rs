//! A short run of the fuzz targets for tokens on the stable compiler; `proto/fuzz/README.md` tells how to go deeper with
//! libFuzzer.

#[expect(unreachable_pub, reason = "the file is shared with proto/fuzz, where these are public")]
#[path = "../../proto/fuzz/src/jwt.rs"]
mod jwt;
#[expect(unreachable_pub, reason = "the file is shared with proto/fuzz, where these are public")]
#[path = "../../proto/fuzz/src/sas.rs"]
mod sas;
#[path = "../../proto/fuzz/src/smoke.rs"]
mod smoke;

#[test]
fn sas_keeps_its_promises() {
    smoke::smoke(sas::seeds(), sas::run);
}

#[test]
fn jwt_keeps_its_promises() {
    smoke::smoke(jwt::seeds(), jwt::run);
}
