use pretty_assertions::assert_eq;

use super::testing::{cpu_client, four_cpu_devices};
use super::{Arg, Buffer, Client, CompileOptions, Error, Executable, NamedValue, Parting, Program};
use crate::array::{DType, HostArray, Shape};

const ADD: &str = "module @add {
    func.func @main(%x: tensor<2x3xf32>, %y: tensor<2x3xf32>) -> tensor<2x3xf32> {
        %sum = stablehlo.add %x, %y : tensor<2x3xf32>
        return %sum : tensor<2x3xf32>
    }
}";

/// The result lives in the first argument where that is donated.
const STEP: &str = "module @step {
    func.func @main(%x: tensor<1024xf32> {tf.aliasing_output = 0 : i32}, %y: tensor<1024xf32>) -> tensor<1024xf32> {
        %sum = stablehlo.add %x, %y : tensor<1024xf32>
        return %sum : tensor<1024xf32>
    }
}";

fn compile(client: &Client, text: &str) -> Executable {
    client.compile(Program::mlir(text), &CompileOptions::default()).unwrap()
}

fn upload(client: &Client, array: &HostArray) -> Buffer {
    client.upload(array, &client.devices()[0]).unwrap()
}

#[test]
fn adds_on_the_device() {
    let client = cpu_client();
    let add = compile(&client, ADD);
    let x = upload(&client, &HostArray::new([2, 3], &[1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0]).unwrap());
    let y = upload(&client, &HostArray::new([2, 3], &[0.5f32; 6]).unwrap());
    let results = add.execute(vec![Arg::Keep(&x), Arg::Keep(&y)]).unwrap();
    assert_eq!(results.len(), 1);
    assert_eq!(results[0].shape(), &Shape::new(DType::F32, [2, 3]));
    let sum = results[0].download().unwrap();
    assert_eq!(sum.values::<f32>().unwrap(), [1.5, 2.5, 3.5, 4.5, 5.5, 6.5]);
    results[0].wait().unwrap();
    assert!(results[0].is_ready().unwrap());
    // Kept arguments are still there.
    assert_eq!(x.download().unwrap().values::<f32>().unwrap()[5], 6.0);
}

#[test]
fn every_dtype_survives_the_round_trip() {
    let client = cpu_client();
    for dtype in DType::ALL {
        let mut array = HostArray::zeros(Shape::new(dtype, [3, 5]));
        array.bytes_mut().iter_mut().enumerate().for_each(|(i, byte)| *byte = (i % 2) as u8);
        let buffer = client.upload_owned(array.clone(), &client.devices()[0]).unwrap();
        assert!(buffer.download().unwrap() == array, "{dtype}");
    }
    let scalar = upload(&client, &HostArray::scalar(7i32));
    assert_eq!(scalar.download().unwrap().values::<i32>().unwrap(), [7]);
    let empty = upload(&client, &HostArray::zeros(Shape::new(DType::F32, [0, 4])));
    assert_eq!(empty.download().unwrap().dims(), [0, 4]);
}

#[test]
fn donated_buffers_are_gone_and_kept_ones_are_not() {
    let client = cpu_client();
    let step = compile(&client, STEP);
    let one = upload(&client, &HostArray::new([1024], &[1.0f32; 1024]).unwrap());
    let x = upload(&client, &HostArray::new([1024], &[2.0f32; 1024]).unwrap());
    let args = [vec![Arg::Donate(x), Arg::Keep(&one)]];
    let first = step.start(&args).unwrap().remove(0).remove(0);
    assert!(args[0][0].buffer().is_deleted().unwrap(), "the donated buffer lives in the result");
    assert!(!one.is_deleted().unwrap());

    // The program would alias its first parameter, but a kept buffer is not for it to take.
    let second = step.execute(vec![Arg::Keep(&first), Arg::Keep(&one)]).unwrap();
    assert!(!first.is_deleted().unwrap());
    assert_eq!(first.download().unwrap().values::<f32>().unwrap()[1023], 3.0);
    assert_eq!(second[0].download().unwrap().values::<f32>().unwrap()[0], 4.0);
}

#[test]
fn donation_survives_serialization() {
    let client = cpu_client();
    let bytes = compile(&client, STEP).compiled().serialize().unwrap();
    // SAFETY: the bytes are this plugin's.
    let step = unsafe { client.deserialize(&bytes) }.unwrap();
    let one = upload(&client, &HostArray::new([1024], &[1.0f32; 1024]).unwrap());
    let args = [vec![Arg::Donate(upload(&client, &one.download().unwrap())), Arg::Keep(&one)]];
    let result = step.start(&args).unwrap().remove(0).remove(0);
    assert!(args[0][0].buffer().is_deleted().unwrap());
    assert_eq!(result.download().unwrap().values::<f32>().unwrap()[1023], 2.0);
}

/// What lets a checkpoint be copied while the next step runs.
#[test]
fn a_copy_that_was_started_before_a_donation_has_what_was_there_before() {
    const LEN: usize = 4 << 20;
    let client = cpu_client();
    let step = compile(&client, &STEP.replace("1024", &LEN.to_string()));
    let one = upload(&client, &HostArray::new([LEN], &vec![1f32; LEN]).unwrap());
    let mut x = upload(&client, &HostArray::zeros(Shape::new(DType::F32, [LEN])));
    let mut copies = Vec::new();
    for _ in 0..12 {
        copies.push(x.start_download().unwrap());
        x = step.execute(vec![Arg::Donate(x), Arg::Keep(&one)]).unwrap().remove(0);
    }
    for (i, copy) in copies.into_iter().enumerate() {
        let copy = std::thread::spawn(|| copy.wait()).join().unwrap().unwrap();
        assert!(copy.values::<f32>().unwrap().iter().all(|&value| value == i as f32), "copy {i}");
    }
    assert_eq!(x.download().unwrap().values::<f32>().unwrap()[LEN - 1], 12.0);
}

#[test]
fn uploads_keep_their_memory_and_downloads_wait_when_dropped() {
    let client = cpu_client();
    let device = &client.devices()[0];
    let buffers: Vec<_> = (0..64)
        .map(|i| {
            client.upload_owned(HostArray::new([65536], &vec![i as f32; 65536]).unwrap(), device).unwrap()
        })
        .collect();
    for (i, buffer) in buffers.iter().enumerate() {
        drop(buffer.start_download().unwrap());
        let download = buffer.start_download().unwrap();
        assert_eq!(download.wait().unwrap().values::<f32>().unwrap()[65535], i as f32);
    }
}

#[test]
fn a_program_starts_before_its_arguments_are_there() {
    // A chain of runs is started as a whole; the host waits once, at its end.
    let client = cpu_client();
    let step = compile(&client, STEP);
    let one = upload(&client, &HostArray::new([1024], &[1.0f32; 1024]).unwrap());
    let mut x = upload(&client, &HostArray::new([1024], &[0.0f32; 1024]).unwrap());
    for _ in 0..100 {
        x = step.execute(vec![Arg::Donate(x), Arg::Keep(&one)]).unwrap().remove(0);
    }
    assert_eq!(x.download().unwrap().values::<f32>().unwrap()[17], 100.0);
}

#[test]
fn execute_does_not_wait_for_results() {
    let client = cpu_client();
    let slow = "module @slow {
        func.func @main(%x: tensor<512x512xf32>) -> tensor<512x512xf32> {
            %start = stablehlo.constant dense<0> : tensor<i32>
            %end = stablehlo.constant dense<400> : tensor<i32>
            %one = stablehlo.constant dense<1> : tensor<i32>
            %last:2 = stablehlo.while(%i = %start, %y = %x) : tensor<i32>, tensor<512x512xf32>
            cond {
                %more = stablehlo.compare LT, %i, %end : (tensor<i32>, tensor<i32>) -> tensor<i1>
                stablehlo.return %more : tensor<i1>
            } do {
                %next = stablehlo.add %i, %one : tensor<i32>
                %z = stablehlo.dot %y, %x : (tensor<512x512xf32>, tensor<512x512xf32>) -> tensor<512x512xf32>
                stablehlo.return %next, %z : tensor<i32>, tensor<512x512xf32>
            }
            return %last#1 : tensor<512x512xf32>
        }
    }";
    let slow = compile(&client, slow);
    let x = upload(&client, &HostArray::zeros(Shape::new(DType::F32, [512, 512])));
    let result = slow.execute(vec![Arg::Keep(&x)]).unwrap().remove(0);
    // A hundred billion operations are not over by now.
    assert!(!result.is_ready().unwrap());
    result.wait().unwrap();
    assert!(result.is_ready().unwrap());
}

#[test]
fn compiled_programs_tell_their_needs() {
    let client = cpu_client();
    let step = compile(&client, STEP);
    let stats = step.compiled().memory_stats().unwrap();
    assert_eq!((stats.argument_bytes, stats.output_bytes, stats.alias_bytes), (8192, 4096, 4096));
    assert_eq!(stats.total_bytes(), 8192 + stats.temp_bytes);
    assert_eq!(step.compiled().name().unwrap(), "step");
    assert_eq!(step.compiled().output_shapes().unwrap(), [Shape::new(DType::F32, [1024])]);
    assert_eq!((step.compiled().num_replicas().unwrap(), step.compiled().num_partitions().unwrap()), (1, 1));
    let cost = step.compiled().cost_analysis().unwrap();
    let flops = cost.iter().find(|(name, _)| name == "flops").map(|(_, value)| value);
    assert_eq!(flops, Some(&NamedValue::Float(1024.0)));
    assert_eq!(client.devices()[0].memory_stats().unwrap(), None);
}

#[test]
fn plugins_and_devices_describe_themselves() {
    let client = four_cpu_devices();
    assert_eq!(client.platform_name(), "cpu");
    assert_eq!(client.devices().iter().map(|device| device.id()).collect::<Vec<_>>(), [0, 1, 2, 3]);
    assert!(client.devices().iter().all(|device| device.kind() == "cpu" && device.is_addressable()));
    assert!(client.plugin().attributes().iter().any(|(name, _)| name == "xla_version"));
    assert_eq!(client.plugin().api_version().0, 0);
}

#[test]
fn bad_options_are_refused() {
    let client = cpu_client();
    let options = CompileOptions::default().with_flag("xla_no_such_flag", true);
    let error = client.compile(Program::mlir(ADD), &options).unwrap_err();
    assert!(error.to_string().contains("xla_no_such_flag"), "{error}");
}

#[test]
fn runs_on_four_devices() {
    let client = four_cpu_devices();
    assert_eq!(client.devices().len(), 4);
    let text = "module @sharded {
        func.func @main(%x: tensor<8xf32> {mhlo.sharding = \"{devices=[4]<=[4]}\"})
                -> (tensor<f32> {mhlo.sharding = \"{replicated}\"}) {
            %zero = stablehlo.constant dense<0.0> : tensor<f32>
            %sum = stablehlo.reduce(%x init: %zero) applies stablehlo.add across dimensions = [0]
                : (tensor<8xf32>, tensor<f32>) -> tensor<f32>
            return %sum : tensor<f32>
        }
    }";
    let sum = client.compile(Program::mlir(text), &CompileOptions::spmd(4)).unwrap();
    assert_eq!(sum.devices().len(), 4);
    assert_eq!(sum.compiled().num_partitions().unwrap(), 4);
    let shard = |i: usize| HostArray::new([2], &[i as f32, 10.0 * i as f32]).unwrap();
    let shards: Vec<_> = sum
        .devices()
        .iter()
        .enumerate()
        .map(|(i, device)| client.upload(&shard(i), device).unwrap())
        .collect();
    let args = shards.iter().map(|shard| vec![Arg::Keep(shard)]).collect();
    for results in sum.execute_sharded(args).unwrap() {
        assert_eq!(results[0].download().unwrap().values::<f32>().unwrap(), [66.0]);
    }
    let mut uneven: Vec<_> = shards.iter().map(|shard| vec![Arg::Keep(shard)]).collect();
    uneven[2].push(Arg::Keep(&shards[2]));
    assert_eq!(
        sum.execute_sharded(uneven).unwrap_err().to_string(),
        "execute expects argument lists alike on every device: device 0 has 1 arguments, kept are [0], \
         device 2 has 2 arguments, kept are [0, 1]"
    );
    let error = sum.execute(vec![Arg::Keep(&shards[0])]).unwrap_err();
    assert!(matches!(error, Error::WrongDeviceCount { expected: 4, got: 1 }), "{error}");
    let copied = shards[1].copy_to(&client.devices()[3]).unwrap();
    assert_eq!(copied.download().unwrap().values::<f32>().unwrap(), [1.0, 10.0]);
}

#[test]
fn errors_keep_code_call_and_message() {
    let client = cpu_client();
    let error = client.compile(Program::hlo(b"\xff\xff\xff"), &CompileOptions::default()).unwrap_err();
    let Error::InvalidArgument(status) = &error else { panic!("{error}") };
    assert_eq!(status.call, "PJRT_Client_Compile");
    assert!(error.to_string().contains("failed to deserialize HloModuleProto"), "{error}");

    let error = client.compile(Program::mlir("not a program"), &CompileOptions::default()).unwrap_err();
    assert!(error.to_string().contains("custom op 'not' is unknown"), "{error}");

    let add = compile(&client, ADD);
    let x = upload(&client, &HostArray::new([2], &[1.0f32; 2]).unwrap());
    let error = add.execute(vec![Arg::Keep(&x)]).unwrap_err();
    assert!(matches!(error, Error::InvalidArgument(_)), "{error}");
    assert!(error.to_string().contains("supplied 1 buffers but compiled program expected 2"), "{error}");
    let error = add.execute(vec![Arg::Keep(&x), Arg::Keep(&x)]).unwrap_err();
    assert!(matches!(error, Error::InvalidArgument(_)), "{error}");
}

#[test]
fn parts_of_a_buffer_are_seen_without_copies() {
    let client = cpu_client();
    assert!(client.makes_views());
    let values: Vec<f32> = (0..2 * 3 * 16).map(|i| i as f32).collect();
    let stack = upload(&client, &HostArray::new([2, 3, 16], &values).unwrap());
    let negate = compile(
        &client,
        "func.func @main(%x: tensor<16xf32>) -> tensor<16xf32> {
            %y = stablehlo.negate %x : tensor<16xf32>
            return %y : tensor<16xf32>
        }",
    );
    let layers = |axes: usize| Parting { axes, pieces: 1, rows: 0 };
    let (before, negated) = Buffer::with_parts(&[(&stack, layers(2)), (&stack, layers(1))], |parts| {
        assert_eq!(parts.len(), 6 + 2);
        assert_eq!(parts[7].shape(), &Shape::new(DType::F32, [3, 16]));
        let before: Vec<HostArray> = parts.iter().map(|part| part.download().unwrap()).collect();
        // Still running when this returns, for all that is known.
        (before, negate.execute(vec![Arg::Keep(&parts[4])]).unwrap())
    })
    .unwrap();
    let bytes = |range: std::ops::Range<usize>| bytemuck::cast_slice::<f32, u8>(&values[range]);
    for (index, part) in before[..6].iter().enumerate() {
        assert_eq!(part.bytes(), bytes(16 * index..16 * (index + 1)));
    }
    assert_eq!(before[7].bytes(), bytes(48..96));
    let negated = negated[0].download().unwrap();
    assert!(negated.values::<f32>().unwrap().iter().zip(&values[64..]).all(|(a, b)| *a == -b));
    // The stack is as it was.
    assert_eq!(stack.download().unwrap().bytes(), bytes(0..96));
}

#[test]
fn stacks_are_cut_where_memory_and_extents_allow() {
    let cut = |parting: Parting, dims: &[usize]| {
        let parts = parting.parts_of(&Shape::new(DType::BF16, dims));
        parts.map(|(count, part)| (count, part.dims().to_vec()))
    };
    let parts = |axes, pieces, dims: &[usize]| cut(Parting { axes, pieces, rows: 0 }, dims);
    assert_eq!(parts(1, 1, &[4, 2, 32]), Some((4, vec![2, 32])));
    assert_eq!(parts(2, 1, &[4, 2, 32]), Some((8, vec![32])));
    assert_eq!(parts(1, 2, &[4, 2, 32]), Some((8, vec![1, 32])));
    assert_eq!(parts(1, 3, &[4, 2, 32]), None);
    let matrices = |rows| cut(Parting { axes: 1, pieces: 2, rows }, &[4, 6, 2, 32]);
    assert_eq!(matrices(2), Some((8, vec![6, 32])));
    assert_eq!(matrices(1), Some((8, vec![3, 64])));
    assert_eq!(matrices(4), None);
    // Parts of 60 bytes, of none, and of fewer axes than asked for.
    assert_eq!(parts(1, 1, &[4, 30]), None);
    assert_eq!(parts(1, 1, &[4, 0]), None);
    assert_eq!(parts(2, 1, &[4]), None);
    let client = cpu_client();
    let stack = upload(&client, &HostArray::new([4, 15], &[0.0f32; 60]).unwrap());
    let count = Buffer::with_parts(&[(&stack, Parting { axes: 1, pieces: 1, rows: 0 })], |parts| parts.len())
        .unwrap();
    assert_eq!(count, 0);
}
