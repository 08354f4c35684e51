//! Graphs: lists of operations, each after some earlier ones.

use super::launch::Asked;
use super::order::Clock;
use super::*;
use std::ffi::c_void;

/// An operation of a graph.
#[derive(Clone)]
pub struct Node {
    pub operation: Operation,
    /// Earlier nodes that it comes after.
    pub after: Vec<usize>,
}

/// A graph, and the handles of its nodes.
#[derive(Default)]
pub struct Graph {
    nodes: Vec<Node>,
    handles: Vec<usize>,
}

/// A graph that can be launched. It has copies of its nodes' arguments.
pub struct Executable {
    nodes: Vec<Node>,
    /// Handles of the nodes of the graph that it was made from.
    handles: Vec<usize>,
    /// Which branch each node is on; 0 is the stream that it is launched in.
    branches: Vec<usize>,
    /// Numbers for the work of the others.
    lanes: Vec<usize>,
    /// The last launch, which comes before the next.
    last: Clock,
}

/// `CUDA_KERNEL_NODE_PARAMS`.
#[repr(C)]
pub struct KernelNode {
    function: usize,
    grid: [u32; 3],
    block: [u32; 3],
    shared: u32,
    params: *mut *mut c_void,
    extra: *mut *mut c_void,
    kernel: usize,
    context: usize,
}

/// `CUDA_MEMSET_NODE_PARAMS`.
#[repr(C)]
pub struct FillNode {
    to: u64,
    pitch: usize,
    value: u32,
    bytes: u32,
    width: usize,
    height: usize,
}

impl KernelNode {
    fn asked(&self) -> Asked {
        Asked {
            function: self.function,
            grid: self.grid,
            block: self.block,
            shared: self.shared,
            params: self.params,
            extra: self.extra,
        }
    }
}

impl FillNode {
    /// One row of values; none for what is not implemented.
    fn operation(&self) -> Option<Operation> {
        let fits = self.height == 1 && matches!(self.bytes, 1 | 2 | 4);
        fits.then_some(Operation::Fill(
            self.to,
            self.value,
            self.bytes as usize,
            self.width,
        ))
    }
}

impl State {
    /// A graph of nodes.
    pub fn graph(&mut self, nodes: Vec<Node>) -> Graph {
        let handles = nodes.iter().map(|_| self.handle()).collect();
        Graph { nodes, handles }
    }

    fn add_node(
        &mut self,
        graph: usize,
        after: &[usize],
        operation: Operation,
    ) -> Result<usize, Code> {
        let handle = self.handle();
        let graph = self.graphs.get_mut(&graph).ok_or(INVALID_HANDLE)?;
        let number = |node: &usize| graph.handles.iter().rposition(|h| h == node);
        let after = after.iter().map(number).collect::<Option<_>>();
        let after = after.ok_or(INVALID_VALUE)?;
        graph.nodes.push(Node { operation, after });
        graph.handles.push(handle);
        Ok(handle)
    }

    fn executable(&mut self, graph: usize) -> Option<Executable> {
        let Graph { nodes, handles } = self.graphs.get(&graph)?;
        let (nodes, handles) = (nodes.clone(), handles.clone());
        let (branches, count) = branches(&nodes);
        let lanes = (1..count).map(|_| self.order.lane()).collect();
        let last = Clock::default();
        Some(Executable {
            nodes,
            handles,
            branches,
            lanes,
            last,
        })
    }

    /// Gives a node of an executable graph other arguments.
    fn change(&mut self, executable: usize, node: usize, operation: Operation) -> Code {
        let Some(executable) = self.executables.get_mut(&executable) else {
            return INVALID_HANDLE;
        };
        let Some(number) = executable.handles.iter().position(|h| *h == node) else {
            return INVALID_VALUE;
        };
        let old = &mut executable.nodes[number].operation;
        let same = match (&*old, &operation) {
            (Operation::Launch(a, ..), Operation::Launch(b, ..)) => {
                Arc::ptr_eq(&a.kernel, &b.kernel)
            }
            (Operation::Fill(..), Operation::Fill(..)) => true,
            _ => false,
        };
        if !same {
            return NOT_SUPPORTED; // another kernel: a driver may allow it, nothing here needs it
        }
        *old = operation;
        SUCCESS
    }

    /// # Safety
    /// Host ranges of the graph's copies are valid.
    unsafe fn launch_graph(&mut self, handle: usize, stream: usize) -> Code {
        let Some((number, mut base)) = self.order.before(stream) else {
            return INVALID_HANDLE;
        };
        let Some(executable) = self.executables.remove(&handle) else {
            return INVALID_HANDLE;
        };
        base.join(&executable.last);
        let mut all = base.clone();
        let mut clocks: Vec<Clock> = Vec::with_capacity(executable.nodes.len());
        let mut code = SUCCESS;
        for (node, branch) in executable.nodes.iter().zip(&executable.branches) {
            let mut clock = base.clone();
            node.after.iter().for_each(|n| clock.join(&clocks[*n]));
            let lane = branch
                .checked_sub(1)
                .map_or(number, |b| executable.lanes[b]);
            let turn = self.order.turn_at(lane, clock);
            // SAFETY: the caller's promise.
            code = unsafe { self.perform(&node.operation, &turn) };
            if code != SUCCESS {
                break;
            }
            all.join(&turn.clock);
            clocks.push(turn.clock);
        }
        self.order.after(stream, &all);
        let last = all;
        self.executables
            .insert(handle, Executable { last, ..executable });
        code
    }
}

/// Chains of nodes: the branch of each node, and the number of branches.
fn branches(nodes: &[Node]) -> (Vec<usize>, usize) {
    let (mut of, mut ends): (Vec<usize>, Vec<Option<usize>>) = (Vec::new(), vec![None]);
    for (number, node) in nodes.iter().enumerate() {
        let goes_on = |end: &Option<usize>| match end {
            Some(end) => node.after.contains(end),
            None => true,
        };
        let branch = ends.iter().position(goes_on).unwrap_or_else(|| {
            ends.push(None);
            ends.len() - 1
        });
        ends[branch] = Some(number);
        of.push(branch);
    }
    (of, ends.len())
}

/// # Safety
/// `nodes` is null or points at `count` handles.
unsafe fn handles<'a>(nodes: *const usize, count: usize) -> &'a [usize] {
    match nodes.is_null() {
        true => &[],
        // SAFETY: the caller's promise.
        false => unsafe { std::slice::from_raw_parts(nodes, count) },
    }
}

api! {
    fn cuGraphCreate(graph: *mut usize, _flags: u32) {
        let mut state = state();
        let handle = state.handle();
        state.graphs.insert(handle, Graph::default());
        put(graph, handle)
    }
    fn cuGraphAddKernelNode_v2(node: *mut usize, graph: usize, after: *const usize, count: usize, params: *const KernelNode) {
        let mut state = state();
        let added = state.operation(&(*params).asked()).and_then(|o| state.add_node(graph, handles(after, count), o));
        match added {
            Ok(handle) => put(node, handle),
            Err(code) => code,
        }
    }
    fn cuGraphAddMemsetNode(
        node: *mut usize, graph: usize, after: *const usize, count: usize, params: *const FillNode, _context: usize,
    ) {
        let Some(operation) = (*params).operation() else { return NOT_SUPPORTED };
        match state().add_node(graph, handles(after, count), operation) {
            Ok(handle) => put(node, handle),
            Err(code) => code,
        }
    }
    fn cuGraphExecKernelNodeSetParams_v2(executable: usize, node: usize, params: *const KernelNode) {
        let mut state = state();
        match state.operation(&(*params).asked()) {
            Ok(operation) => state.change(executable, node, operation),
            Err(code) => code,
        }
    }
    fn cuGraphExecMemsetNodeSetParams(executable: usize, node: usize, params: *const FillNode, _context: usize) {
        match (*params).operation() {
            Some(operation) => state().change(executable, node, operation),
            None => NOT_SUPPORTED,
        }
    }
    fn cuGraphInstantiateWithFlags(executable: *mut usize, graph: usize, _flags: u64) {
        let mut state = state();
        let Some(made) = state.executable(graph) else { return INVALID_HANDLE };
        let handle = state.handle();
        state.executables.insert(handle, made);
        put(executable, handle)
    }
    fn cuGraphLaunch(executable: usize, stream: usize) {
        let mut state = state();
        if state.failed != SUCCESS {
            return state.failed;
        }
        if let Some(code) = state.spoil(stream) {
            return code; // a graph within a graph is not implemented
        }
        state.launch_graph(executable, stream)
    }
    fn cuGraphUpload(executable: usize, _stream: usize) {
        if state().executables.contains_key(&executable) { SUCCESS } else { INVALID_HANDLE }
    }
    fn cuGraphDestroy(graph: usize) {
        if state().graphs.remove(&graph).is_some() { SUCCESS } else { INVALID_HANDLE }
    }
    fn cuGraphExecDestroy(executable: usize) {
        if state().executables.remove(&executable).is_some() { SUCCESS } else { INVALID_HANDLE }
    }
}
