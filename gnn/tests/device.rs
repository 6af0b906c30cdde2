//! What goes to a GPU, on the same kernels compiled for the processor: the numbers are PyTorch Geometric's, a library
//! that cannot be used is refused with the reason, and what a device does not compute the processor does.

mod cases;
mod emulated;

use cases::{FIXTURES, case, difference};
use emulated::{compile, kernels};
use gnn::{Cancel, Choice, DeviceKind, devices, open, open_with};
use std::path::Path;

// One test: the device is chosen for the whole process.
#[test]
fn a_device_computes_what_the_processor_does() {
    let place = tempfile::tempdir().unwrap();
    let refused = |library: &Path| {
        let device = open_with(Choice::Auto, Some(library)).unwrap();
        assert_eq!((device.kind, device.usable), (DeviceKind::Cpu, true), "{library:?}");
        let error = open_with(Choice::Cuda, Some(library)).unwrap_err().to_string();
        assert!(error.starts_with("`device`: cuda cannot be used: "), "{error}");
        assert_eq!(
            device.reason.strip_prefix("CUDA: "),
            error.strip_prefix("`device`: cuda cannot be used: ")
        );
        device.reason
    };
    assert!(refused(Path::new("/nowhere/lib.so")).contains("/nowhere/lib.so"));
    let other = compile(place.path(), "other", "int something;", &[]);
    assert!(refused(&other).contains("is no library of gnn/cuda/build"));
    let export = "__attribute__((visibility(\"default\"))) int gnn_abi(void) { return 99; }";
    let newer = compile(place.path(), "newer", export, &[]);
    assert!(refused(&newer).contains("has the interface 99, this program wants 1"));
    let text = kernels();
    let wrong = text.replace("sum /= (float)(to - from);", "sum *= 0.99f;");
    assert_ne!(wrong, text);
    let wrong = compile(place.path(), "wrong", &wrong, &[]);
    assert!(refused(&wrong).contains("does not compute what the processor does"), "{}", refused(&wrong));

    let right = compile(place.path(), "right", &text, &["-Wall", "-Wextra", "-Werror"]);
    let device = open_with(Choice::Auto, Some(&right)).unwrap();
    assert_eq!(
        (device.kind, device.usable, device.name.as_str()),
        (DeviceKind::Cuda, true, "emulated by the processor")
    );
    assert_eq!(device.batch_size(), 128);
    assert_eq!(devices().iter().map(|device| device.used).collect::<Vec<_>>(), [true, false]);
    fixtures();
    let reason = devices().swap_remove(0).reason;
    assert!(reason.contains("a layer norm over all nodes is computed on the processor"), "{reason}");

    assert_eq!(open(Choice::Cpu).unwrap().kind, DeviceKind::Cpu);
    assert_eq!(devices().iter().map(|device| device.used).collect::<Vec<_>>(), [false, true]);
    let case = case("gat");
    let all: Vec<u32> = (0..90).collect();
    let here =
        case.model.forward_nodes(&case.graph, &case.features, &all, &[], 0, &Cancel::default()).unwrap();
    assert_eq!(case.model.forward(&case.graph, &case.features, &Cancel::default()).unwrap(), here);
}

fn fixtures() {
    let mut other_bits = 0;
    for name in FIXTURES {
        let mut case = case(name);
        let there = case.model.forward(&case.graph, &case.features, &Cancel::default()).unwrap();
        let most = difference(&there, &case.expected);
        assert!(most <= 1e-5, "{name}: wrong by up to {most:e}");
        // Some nodes are always computed by the processor, even if they are all.
        let all: Vec<u32> = (0..90).collect();
        let here =
            case.model.forward_nodes(&case.graph, &case.features, &all, &[], 0, &Cancel::default()).unwrap();
        other_bits += usize::from(here != there);
        assert_eq!(
            case.model.forward(&case.graph, &case.features, &Cancel::default()).unwrap(),
            there,
            "{name}, again"
        );
        // Features that were changed are brought anew.
        case.features.row_mut(40).fill(2.0);
        let there = case.model.forward(&case.graph, &case.features, &Cancel::default()).unwrap();
        let here =
            case.model.forward_nodes(&case.graph, &case.features, &all, &[], 0, &Cancel::default()).unwrap();
        assert!(difference(&there, &here) <= 1e-4 && difference(&there, &case.expected) > 1e-3, "{name}");
        let cancel = Cancel::default();
        cancel.cancel();
        assert_eq!(case.model.forward(&case.graph, &case.features, &cancel), Err(gnn::Error::Cancelled));
    }
    assert!(other_bits >= 12, "only {other_bits} models were computed elsewhere");
}
