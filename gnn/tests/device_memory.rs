//! A device whose memory runs out: the processor computes, and the device says why.

mod emulated;

use gnn::{Aggr, Cancel, Choice, Csr, DeviceKind, Matrix, Orientation, Training, devices, open_with};

#[test]
fn the_processor_goes_on_where_memory_runs_out() {
    let place = tempfile::tempdir().unwrap();
    let library =
        emulated::compile(place.path(), "small", &emulated::kernels(), &["-DGNN_EMULATE_LARGEST=300000"]);
    assert_eq!(open_with(Choice::Cuda, Some(&library)).unwrap().kind, DeviceKind::Cuda);
    let nodes = 4000u32;
    let targets: Vec<u32> = (0..nodes).map(|node| (node * 7 + 1) % nodes).collect();
    let graph = Csr::from_edges(
        nodes as usize,
        &(0..nodes).collect::<Vec<_>>(),
        &targets,
        None,
        Orientation::Undirected,
    )
    .unwrap();
    let values = (0..nodes * 20).map(|at| (at % 97) as f32 / 97.0).collect();
    let features = Matrix::new(nodes as usize, 20, values).unwrap();
    let training = Training { epochs: 1, max_iterations: 1, aggregator: Aggr::Max, ..Default::default() };
    let model = training.run(&graph, &features, &Cancel::default(), |_| {}).unwrap();
    let all: Vec<u32> = (0..nodes).collect();
    let here = model.forward_nodes(&graph, &features, &all, &[], 0, &Cancel::default()).unwrap();
    assert_eq!(model.forward(&graph, &features, &Cancel::default()).unwrap(), here);
    let device = devices().swap_remove(0);
    assert!(device.usable && device.reason.contains("out of memory"), "{}", device.reason);
}
