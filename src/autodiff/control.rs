//! Gradients of loops and branches.

use std::cell::RefCell;
use std::sync::Arc;

use super::primals::Recompute;
use super::sweep::{Context, Sweep, active_outputs};
use crate::graph::{
    Branch, Builder, Function, Node, NodeId, Op, Output, RematPolicy, Result, ScanSpec, Value,
};

/// A parameter of a scan's body, by its role.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Const(usize),
    Carry(usize),
    Input(usize),
}

fn role(spec: &ScanSpec, id: NodeId) -> Role {
    let place = spec.body.parameters().iter().position(|&parameter| parameter == id);
    let place = place.expect("the node is a parameter of the body");
    match place.checked_sub(spec.num_consts) {
        None => Role::Const(place),
        Some(place) if place < spec.num_carries => Role::Carry(place),
        Some(place) => Role::Input(place - spec.num_carries),
    }
}

/// The gradient of a loop is a loop in the other direction. Its carries are the cotangents of the
/// forward carries and the growing sums for the constants; its inputs are the forward inputs, the
/// forward carries of each step and whatever else the policy lets the forward loop store, all of which
/// that loop is extended to return.
pub(super) fn scan(
    cx: &mut Context<'_>,
    spec: &ScanSpec,
    results: Vec<Option<Value>>,
) -> Result<Vec<Option<Value>>> {
    let body = &spec.body;
    let num_fixed = spec.num_consts + spec.num_carries;
    let parameter = |place: usize| Output { node: body.parameters()[place], index: 0 };

    let active_carries = active_carries(spec, cx.needs);
    let needed_consts: Vec<usize> = (0..spec.num_consts).filter(|&i| cx.needs[i]).collect();
    let needed_inputs: Vec<usize> = (num_fixed..cx.node.inputs.len()).filter(|&i| cx.needs[i]).collect();

    // The backward body, with its own parameters.
    let backward = cx.target.child("scan_vjp_body");
    let new = |name: &str, output: Output| backward.parameter(name, body.shape(output).clone());
    let sums = needed_consts.iter().map(|&i| new("ct_const", parameter(i))).collect::<Result<Vec<_>>>()?;
    let carry_cts =
        active_carries.iter().map(|&j| new("ct_carry", body.outputs()[j])).collect::<Result<Vec<_>>>()?;
    let mut seeds: Vec<(Output, Value)> =
        active_carries.iter().map(|&j| body.outputs()[j]).zip(carry_cts.iter().cloned()).collect();
    let mut output_cts = Vec::new();
    for (place, ct) in results.iter().enumerate().skip(spec.num_carries) {
        if let Some(stacked) = ct {
            let of_step = new("ct_output", body.outputs()[place])?;
            seeds.push((body.outputs()[place], of_step.clone()));
            output_cts.push((of_step, stacked.clone()));
        }
    }

    // Forward values are asked for by the rules; what is asked for becomes a parameter.
    let asked: RefCell<Vec<(Role, Value)>> = RefCell::default();
    let carries = &body.parameters()[spec.num_consts..num_fixed];
    let mut primals = Recompute::new(body, &backward, spec.policy, carries, |id| {
        let value = backward.parameter("primal", body.node(id).shapes[0].clone())?;
        let role = role(spec, id);
        asked.borrow_mut().push((role, value.clone()));
        match role {
            // What is computed again starts here, and must not be merged with its first computation.
            Role::Carry(_) if spec.policy != RematPolicy::EverythingSaveable => {
                Ok(Value::optimization_barrier(&[&value])?.swap_remove(0))
            }
            _ => Ok(value),
        }
    });
    let wanted: Vec<Output> = needed_consts
        .iter()
        .copied()
        .chain(active_carries.iter().map(|&j| spec.num_consts + j))
        .chain(needed_inputs.iter().copied())
        .map(parameter)
        .collect();
    let cts = Sweep { nodes: body.nodes(), target: &backward, primals: &mut primals }.run(seeds, &wanted)?;
    let saved = primals.saved;
    let asked = asked.into_inner();

    // Constants add up; carries and inputs without a cotangent get zeros.
    let mut outputs = Vec::with_capacity(wanted.len());
    for (i, (ct, &of)) in cts.into_iter().zip(&wanted).enumerate() {
        outputs.push(match (ct, sums.get(i)) {
            (Some(ct), Some(sum)) => sum.add(&ct)?,
            (None, Some(sum)) => sum.clone(),
            (Some(ct), None) => ct,
            (None, None) => backward.zeros(body.shape(of))?,
        });
    }

    // The forward loop also returns the carries and results that were asked for.
    let asked_of = |wanted: fn(&Role) -> bool| asked.iter().filter(move |(role, _)| wanted(role));
    let asked_carries: Vec<_> = asked_of(|role| matches!(role, Role::Carry(_))).collect();
    let stored_outputs = asked_carries.iter().map(|(role, _)| match role {
        Role::Carry(j) => parameter(spec.num_consts + j),
        Role::Const(_) | Role::Input(_) => unreachable!("only carries were kept"),
    });
    let stored_outputs: Vec<Output> = stored_outputs.chain(saved.iter().map(|(output, _)| *output)).collect();
    let given = results.iter().position(Option::is_some).unwrap_or(0);
    let forward = cx.output(given)?.output().node;
    let stored = extend_forward(cx.target, forward, stored_outputs)?;

    // The backward loop.
    let mut parameters: Vec<&Value> = Vec::new();
    let mut arguments: Vec<Value> = Vec::new();
    for (role, value) in asked_of(|role| matches!(role, Role::Const(_))) {
        let Role::Const(i) = role else { unreachable!("only constants were kept") };
        parameters.push(value);
        arguments.push(cx.input(*i)?);
    }
    let num_consts = parameters.len();
    for sum in &sums {
        parameters.push(sum);
        arguments.push(cx.target.zeros(sum.shape())?);
    }
    for (value, &j) in carry_cts.iter().zip(&active_carries) {
        parameters.push(value);
        arguments.push(match &results[j] {
            Some(ct) => ct.clone(),
            None => cx.target.zeros(value.shape())?,
        });
    }
    for (role, value) in asked_of(|role| matches!(role, Role::Input(_))) {
        let Role::Input(i) = role else { unreachable!("only inputs were kept") };
        parameters.push(value);
        arguments.push(cx.input(num_fixed + i)?);
    }
    parameters.extend(asked_carries.iter().map(|(_, value)| value));
    parameters.extend(saved.iter().map(|(_, value)| value));
    arguments.extend(stored);
    for (value, stacked) in &output_cts {
        parameters.push(value);
        arguments.push(stacked.clone());
    }
    let vjp_body = backward.finish_with(&parameters, &outputs.iter().collect::<Vec<_>>())?;
    debug_assert!(backward.captures().is_empty());
    let vjp_spec = ScanSpec {
        body: Arc::new(vjp_body),
        num_consts,
        num_carries: sums.len() + carry_cts.len(),
        reverse: !spec.reverse,
        ..spec.clone()
    };
    let mut cotangents = cx.target.push_scan(vjp_spec, arguments.iter())?.into_iter();

    let mut of_operands: Vec<Option<Value>> = vec![None; cx.node.inputs.len()];
    let carry_places = active_carries.iter().map(|&j| spec.num_consts + j);
    for place in needed_consts.iter().copied().chain(carry_places).chain(needed_inputs) {
        of_operands[place] = cotangents.next();
    }
    Ok(of_operands)
}

/// The carries through which the wanted operands influence the loop's results.
fn active_carries(spec: &ScanSpec, needs: &[bool]) -> Vec<usize> {
    let mut is_active = needs.to_vec();
    loop {
        let sources: Vec<Output> = spec
            .body
            .parameters()
            .iter()
            .zip(&is_active)
            .filter(|(_, active)| **active)
            .map(|(&node, _)| Output { node, index: 0 })
            .collect();
        let active = active_outputs(spec.body.nodes(), &sources);
        let mut changed = false;
        for j in 0..spec.num_carries {
            let place = spec.num_consts + j;
            if !is_active[place] && active.contains(&spec.body.outputs()[j]) {
                is_active[place] = true;
                changed = true;
            }
        }
        if !changed {
            return (0..spec.num_carries).filter(|&j| is_active[spec.num_consts + j]).collect();
        }
    }
}

/// Makes the loop at `id` also return these results of its body, stacked.
fn extend_forward(target: &Builder, id: NodeId, outputs: Vec<Output>) -> Result<Vec<Value>> {
    let node: Arc<Node> = target.node(id);
    let Op::Scan(spec) = &node.op else { unreachable!("the value of a scan's result is a scan's result") };
    let body = Arc::new(spec.body.with_outputs(outputs));
    target.extend(id, Op::Scan(ScanSpec { body, ..spec.clone() }))
}

/// Each branch gets a backward branch, which computes the forward branch again.
pub(super) fn conditional(
    cx: &mut Context<'_>,
    branches: &[Arc<Function>],
    results: Vec<Option<Value>>,
) -> Result<Vec<Option<Value>>> {
    let target = cx.target;
    let num_inputs = cx.node.inputs.len();
    let needed: Vec<usize> = (1..num_inputs).filter(|&i| cx.needs[i]).collect();
    let index = cx.input(0)?;
    let cx = RefCell::new(cx);
    // What comes from outside is first made the branch's own, so that all it is used for stays in there.
    let backward = |branch: &Function, b: &Builder| -> Result<Vec<Value>> {
        let mut primals = Recompute::new(branch, b, RematPolicy::NothingSaveable, &[], |id| {
            let place = branch.parameters().iter().position(|&parameter| parameter == id);
            b.own(&cx.borrow_mut().input(1 + place.expect("the node is a parameter of the branch"))?)
        });
        let seeds = branch.outputs().iter().zip(&results);
        let seeds = seeds.filter_map(|(&output, ct)| Some((output, ct.as_ref()?)));
        let seeds = seeds.map(|(output, ct)| Ok((output, b.own(ct)?))).collect::<Result<_>>()?;
        let wanted: Vec<Output> =
            needed.iter().map(|&i| Output { node: branch.parameters()[i - 1], index: 0 }).collect();
        let cts = Sweep { nodes: branch.nodes(), target: b, primals: &mut primals }.run(seeds, &wanted)?;
        let cts = cts.into_iter().zip(&wanted);
        cts.map(|(ct, &of)| ct.map_or_else(|| b.zeros(branch.shape(of)), Ok)).collect()
    };
    type Owned<'a> = Box<dyn Fn(&Builder) -> Result<Vec<Value>> + 'a>;
    let closures: Vec<Owned<'_>> =
        branches.iter().map(|branch| Box::new(|b: &Builder| backward(branch, b)) as Owned<'_>).collect();
    let closures: Vec<Branch<'_>> = closures.iter().map(|closure| &**closure as _).collect();
    let mut cts = target.conditional(&index, &closures)?.into_iter();
    Ok((0..num_inputs).map(|i| if needed.contains(&i) { cts.next() } else { None }).collect())
}
