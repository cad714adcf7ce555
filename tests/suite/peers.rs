//! The PyTorch peers measure the cases of the benches.

use serde_json::Value;

use crate::cases;

#[test]
fn the_peers_have_the_sizes_of_the_benches() {
    let written: Value = serde_json::from_str(include_str!("../../benches/peers/cases.json")).unwrap();
    let current: Value = serde_json::from_str(&cases::export()).unwrap();
    let renew = "`cargo bench --bench bench -- --export >benches/peers/cases.json` renews the table";
    assert_eq!(written, current, "{renew}");
}
