//! Calls by name, containers, fields and callbacks, with the defects of the crate `tvm-ffi` 0.1.14 mended.

use crate::error::{Error, Result};
use std::cell::RefCell;
use std::collections::HashMap;
use tvm_ffi::object::ObjectRef;
use tvm_ffi::{Any, AnyView, FieldGetter, Function, ObjectRefCore};

/// TVM's `None`.
pub const NONE: () = ();

thread_local! {
    static FUNCTIONS: RefCell<HashMap<&'static str, Function>> = RefCell::new(HashMap::new());
}

/// One line out of a TVM error, which otherwise carries C++ traces.
pub fn explain(error: &tvm_ffi::Error) -> String {
    let message = error.message();
    let message = message.strip_prefix("Check failed: ").unwrap_or(message);
    let text: String = message.trim().chars().take(2000).collect();
    format!("{}: {text}", error.kind().as_str())
}

fn refused(name: &str, error: &tvm_ffi::Error) -> Error {
    Error::Library(format!("TVM refused {name}: {}", explain(error)))
}

/// The global function of that name; found once per thread.
pub fn function(name: &'static str) -> Result<Function> {
    FUNCTIONS.with(|cache| {
        if let Some(found) = cache.borrow().get(name) {
            return Ok(found.clone());
        }
        let found = Function::get_global(name).map_err(|_| {
            Error::Library(format!(
                "TVM has no function {name}: this program needs apache-tvm 0.27.0.post1 with its compiler library; run scripts/setup"
            ))
        })?;
        cache.borrow_mut().insert(name, found.clone());
        Ok(found)
    })
}

/// Calls a global function; the macro `call!` is the short form.
pub fn call(name: &'static str, arguments: &[AnyView]) -> Result<Any> {
    function(name)?.call_packed(arguments).map_err(|e| refused(name, &e))
}

/// `call!("name", a, b)`: arguments are anything that TVM's FFI knows, taken by reference.
#[doc(hidden)]
#[macro_export]
macro_rules! call {
    ($name:literal $(, $argument:expr)* $(,)?) => {
        $crate::tvm::ffi::call($name, &[$(tvm_ffi::AnyView::from(&$argument)),*])
    };
}

/// The value as a Rust type; an error names what was wanted.
pub fn cast<T: TryFrom<Any, Error = tvm_ffi::Error>>(value: Any, what: &str) -> Result<T> {
    T::try_from(value).map_err(|e| {
        Error::Library(format!("TVM returned an unexpected {what}: {}; this program needs apache-tvm 0.27.0.post1", explain(&e)))
    })
}

pub fn text(value: &str) -> tvm_ffi::String {
    tvm_ffi::String::from(value)
}

pub fn is_none(value: &Any) -> bool {
    value.try_as::<()>().is_some()
}

/// A C++-owned array: the crate's own `Array::new` never frees its elements.
pub fn array<T>(items: &[T]) -> Result<Any>
where
    for<'a> AnyView<'a>: From<&'a T>,
{
    let views: Vec<AnyView> = items.iter().map(AnyView::from).collect();
    call("ffi.Array", &views)
}

/// A C++-owned map of keys and values in turn.
pub fn map(pairs: &[(Any, Any)]) -> Result<Any> {
    let views: Vec<AnyView> = pairs.iter().flat_map(|(k, v)| [AnyView::from(k), AnyView::from(v)]).collect();
    call("ffi.Map", &views)
}

/// The elements of a TVM array.
pub fn items(array: &Any) -> Result<Vec<Any>> {
    let n: i64 = cast(crate::call!("ffi.ArraySize", *array)?, "array size")?;
    (0..n).map(|i| crate::call!("ffi.ArrayGetItem", *array, i)).collect()
}

/// The entries of a TVM map, in TVM's order.
pub fn entries(map: &Any) -> Result<Vec<(Any, Any)>> {
    let n: i64 = cast(crate::call!("ffi.MapSize", *map)?, "map size")?;
    if n == 0 {
        return Ok(Vec::new());
    }
    let walk: Function = cast(crate::call!("ffi.MapForwardIterFunctor", *map)?, "iterator")?;
    let step = |command: i64| walk.call_packed(&[AnyView::from(&command)]).map_err(|e| refused("ffi.MapForwardIterFunctor", &e));
    let mut found = Vec::new();
    loop {
        found.push((step(0)?, step(1)?));
        if found.len() as i64 == n {
            return Ok(found);
        }
        step(2)?;
    }
}

/// A reflected field of any TVM node.
pub fn field(node: &Any, name: &str) -> Result<Any> {
    let wrong = |why: String| Error::Library(format!("TVM: no field {name}: {why}"));
    let object: ObjectRef = node.try_as().ok_or_else(|| wrong(format!("type {} is not an object", node.type_index())))?;
    let getter = FieldGetter::new(node.type_index(), name).map_err(|e| wrong(explain(&e)))?;
    getter.get_any(&**ObjectRef::data(&object)).map_err(|e| wrong(explain(&e)))
}

/// A field that is an integer or an `ir.IntImm`.
pub fn integer(value: &Any) -> Result<i64> {
    match value.try_as::<i64>() {
        Some(plain) => Ok(plain),
        None => cast(field(value, "value")?, "integer"),
    }
}

/// A Rust closure as a TVM function. TVM calls it from threads of its own, hence `Send + Sync`;
/// a panic becomes an error instead of crossing into C++.
pub fn func(f: impl Fn(&[AnyView]) -> Result<Any> + Send + Sync + 'static) -> Function {
    Function::from_packed(move |arguments| {
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| f(arguments)));
        let message = match outcome {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "a callback panicked".to_string(),
        };
        Err(tvm_ffi::Error::new(tvm_ffi::RUNTIME_ERROR, &message, ""))
    })
}

/// A node as TVM's own JSON, for process boundaries.
pub fn to_json(node: &Any) -> Result<String> {
    let json: tvm_ffi::String = cast(crate::call!("ffi.ToJSONGraphString", *node, NONE)?, "JSON")?;
    Ok(json.as_str().to_string())
}

/// The node that [`to_json`] wrote.
pub fn from_json(json: &str) -> Result<Any> {
    crate::call!("ffi.FromJSONGraphString", text(json))
}

/// Structural hash: equal for equal programs, in every process.
pub fn structural_hash(node: &Any) -> Result<u64> {
    let hash: i64 = cast(crate::call!("ffi.StructuralHash", *node, false, false)?, "hash")?;
    Ok(hash as u64)
}

/// Whether two nodes are the same program.
pub fn structural_equal(a: &Any, b: &Any) -> Result<bool> {
    cast(crate::call!("ffi.StructuralEqual", *a, *b, false, false)?, "equality")
}

/// TVM's own printed form (TVMScript).
pub fn script(node: &Any) -> Result<String> {
    let printed: tvm_ffi::String = cast(crate::call!("node.TVMScriptPrinterScript", *node, NONE)?, "script")?;
    Ok(printed.as_str().to_string())
}
