//! Alone in its process, because it watches the process's memory.

use paligemma::array::HostArray;
use paligemma::runtime::{
    Arg, Client, ClientOptions, CompileOptions, Plugin, PluginKind, PluginRequest, Program,
};

const VALUES: usize = 1 << 18;

/// Resident memory of this process in bytes.
fn resident_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux tells a process its memory");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("and the line has this name");
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
}

/// A run here makes 4 MiB of buffers: an argument of 1 MiB uploaded either way, a result, a download. Were
/// any of those kept, 1000 runs would add a gigabyte; 32 MiB is room for an allocator's mood.
#[test]
fn a_thousand_runs_leave_nothing_behind() {
    let plugin =
        Plugin::discover(&PluginRequest::kind(PluginKind::Cpu)).unwrap_or_else(|error| panic!("{error}"));
    let client = Client::new(&plugin, &ClientOptions::default()).unwrap();
    let text = format!(
        "func.func @main(%x: tensor<{VALUES}xf32> {{tf.aliasing_output = 0 : i32}}, %y: tensor<{VALUES}xf32>)
            -> (tensor<{VALUES}xf32>, tensor<{VALUES}xf32>) {{
            %sum = stablehlo.add %x, %y : tensor<{VALUES}xf32>
            %product = stablehlo.multiply %x, %y : tensor<{VALUES}xf32>
            return %sum, %product : tensor<{VALUES}xf32>, tensor<{VALUES}xf32>
        }}"
    );
    let executable = client.compile(Program::mlir(&text), &CompileOptions::default()).unwrap();
    let array = HostArray::new([VALUES], &vec![1.0f32; VALUES]).unwrap();
    let run = || {
        let device = &client.devices()[0];
        let x = client.upload_owned(array.clone(), device).unwrap();
        let y = client.upload(&array, device).unwrap();
        let results = executable.execute(vec![Arg::Donate(x), Arg::Keep(&y)]).unwrap();
        assert_eq!(results[0].download().unwrap().values::<f32>().unwrap()[0], 2.0);
    };
    (0..50).for_each(|_| run());
    let before = resident_bytes();
    (0..1000).for_each(|_| run());
    let grown = resident_bytes().saturating_sub(before);
    assert!(grown < 32 << 20, "memory grew by {grown} bytes in 1000 runs");
}
