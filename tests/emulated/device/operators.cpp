// Operators of the device: refused, or counted and computed by the CPU on the same memory.
#include "device.h"

#include <ATen/native/Resize.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/is_set_to_native.h>
#include <ATen/ops/set_native.h>
#include <ATen/ops/unfold_native.h>
#include <ATen/ops/view_as_real_native.h>
#include <ATen/ops/view_native.h>
#include <ATen/native/transformers/attention.h>
#include <torch/library.h>

#include <cmath>
#include <set>

namespace emulated {
namespace {

using at::Tensor;
using Names = std::set<std::string>;

const Names INDEXING = {"aten::index", "aten::_unsafe_index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"};
// CUDA's kernels take indices on the CPU, and copies are between devices.
const Names MAY_MIX_DEVICES = [] {
  Names names = INDEXING;
  names.insert({"aten::copy_", "aten::_copy_from"});
  return names;
}();
// The size of the result, or the next kernel, depends on values: the host waits for them.
const Names WAITS = {
    "aten::nonzero", "aten::masked_select", "aten::_unique2", "aten::unique_dim", "aten::unique_consecutive", "aten::_local_scalar_dense", "aten::equal",
    "aten::bincount", "aten::repeat_interleave", "aten::is_nonzero", "aten::histc", "aten::multinomial",
    "aten::linalg_eigh", "aten::_linalg_eigh", "aten::_linalg_svd"};
// cuBLAS multiplies no integers.
const Names PRODUCTS = {"aten::mm", "aten::bmm", "aten::addmm", "aten::baddbmm", "aten::addmv", "aten::mv", "aten::dot"};

[[noreturn]] void refuse(const std::string& message) { TORCH_CHECK(false, "[emulated cuda] ", message); std::abort(); }

// Devices of an operator's tensors; refuses what CUDA refuses.
struct Devices {
  const std::string& name;
  int device = -1;
  bool cpu = false;

  void add(const Tensor& tensor) {
    if (!tensor.defined()) return;
    if (!tensor.is_cuda()) {
      cpu = cpu || tensor.dim() > 0;  // a number on the CPU may go with any device
      return;
    }
    if (device >= 0 && device != tensor.get_device())
      refuse(name + ": tensors on cuda:" + std::to_string(device) + " and cuda:" + std::to_string(tensor.get_device()));
    device = tensor.get_device();
    if (PRODUCTS.count(name) && c10::isIntegralType(tensor.scalar_type(), true))
      refuse(name + " is not implemented for integers");
  }
  void check() const {
    if (device >= 0 && cpu && !MAY_MIX_DEVICES.count(name))
      refuse("Expected all tensors to be on the same device, but got cuda and cpu in " + name);
  }
};

void count_indexing(const std::string& name, const c10::IValue& argument) {
  if (!argument.isOptionalTensorList() || name == "aten::index") return;  // counted: it asks for nonzero and copies
  for (const std::optional<Tensor>& index : argument.toOptionalTensorVector()) {
    if (!index || !index->defined()) continue;
    const bool mask = index->scalar_type() == at::kBool || index->scalar_type() == at::kByte;
    if (index->is_cuda() && mask) count_wait(name + " by a mask");
    if (!index->is_cuda()) count_wait(name + " by indices of the CPU");
  }
}

c10::IValue argument_on_host(const c10::IValue& argument, bool empty_output) {
  if (argument.isTensor()) {
    const Tensor& tensor = argument.toTensor();
    return empty_output ? at::empty({0}, tensor.options().device(at::kCPU)) : as_host(tensor);
  }
  if (argument.isTensorList()) {
    std::vector<Tensor> tensors;
    for (const auto& tensor : argument.toTensorVector()) tensors.push_back(as_host(tensor));
    return c10::List<Tensor>(tensors);
  }
  if (argument.isOptionalTensorList()) {
    c10::List<std::optional<Tensor>> tensors;
    for (const std::optional<Tensor>& tensor : argument.toOptionalTensorVector())
      tensors.push_back(tensor ? std::optional<Tensor>(as_host(*tensor)) : std::nullopt);
    return tensors;
  }
  if (argument.isDevice()) return c10::Device(c10::DeviceType::CPU);
  return argument;
}

c10::IValue result_on_device(const c10::IValue& result, int device) {
  if (result.isTensor()) return to_device(result.toTensor(), device);
  if (!result.isTensorList()) return result;
  std::vector<Tensor> tensors;
  for (const auto& tensor : result.toTensorVector()) tensors.push_back(to_device(tensor, device));
  return c10::List<Tensor>(tensors);
}

// An output that the operator may have resized, into the caller's tensor.
void replace_resized(const Tensor& callers, const Tensor& host, int device) {
  if (!callers.defined() || !host.defined() || callers.sizes() == host.sizes()) return;
  callers.unsafeGetTensorImpl()->shallow_copy_from(to_device(host, device).getIntrusivePtr());
}

// Every operator without an implementation below.
void by_cpu(const c10::OperatorHandle& handle, torch::jit::Stack* stack) {
  const auto& schema = handle.schema();
  const std::string name = schema.name();  // of all overloads
  const size_t count = schema.arguments().size(), first = stack->size() - count;
  const std::vector<c10::IValue> arguments(stack->begin() + first, stack->end());

  Devices devices{name};
  for (const auto& argument : arguments) {
    if (argument.isTensor()) devices.add(argument.toTensor());
    else if (argument.isTensorList()) for (const auto& tensor : argument.toTensorVector()) devices.add(tensor);
    else if (argument.isOptionalTensorList()) {
      for (const std::optional<Tensor>& tensor : argument.toOptionalTensorVector()) if (tensor) devices.add(*tensor);
    }
  }
  devices.check();
  const int device = devices.device < 0 ? current_device : devices.device;
  count_operator(name);
  if (WAITS.count(name)) count_wait(name);
  if (INDEXING.count(name)) for (const auto& argument : arguments) count_indexing(name, argument);

  for (size_t place = 0; place < count; place++) {
    const auto& declared = schema.arguments()[place];
    const auto& argument = arguments[place];
    const bool output = declared.alias_info() && declared.alias_info()->isWrite() && declared.kwarg_only();
    const bool empty_output = output && argument.isTensor() && argument.toTensor().defined() && argument.toTensor().numel() == 0;
    (*stack)[first + place] = argument_on_host(argument, empty_output);
  }
  handle.redispatchBoxed(c10::DispatchKeySet(c10::DispatchKey::CPU), stack);

  const size_t results = stack->size() - schema.returns().size();
  for (size_t place = 0; place < schema.returns().size(); place++) {
    auto& result = (*stack)[results + place];
    const auto* alias = schema.returns()[place].alias_info();
    if (!alias || !alias->isWrite()) {
      result = result_on_device(result, device);
      continue;
    }
    for (size_t other = 0; other < count; other++) {
      const auto* written = schema.arguments()[other].alias_info();
      if (!written || !written->isWrite() || written->afterSets() != alias->afterSets() || !arguments[other].isTensor()) continue;
      if (result.isTensor()) replace_resized(arguments[other].toTensor(), result.toTensor(), device);
      result = arguments[other];
      break;
    }
  }
}

int device_of(std::optional<c10::Device> device) { return device && device->has_index() ? device->index() : current_device; }

Tensor empty_strided(at::IntArrayRef size, at::IntArrayRef stride, std::optional<at::ScalarType> dtype, std::optional<at::Layout>, std::optional<at::Device> device, std::optional<bool>) {
  return on_device(size, stride, dtype.value_or(c10::get_default_dtype_as_scalartype()), device_of(device));
}
Tensor empty(at::IntArrayRef size, std::optional<at::ScalarType> dtype, std::optional<at::Layout> layout, std::optional<at::Device> device, std::optional<bool> pinned, std::optional<at::MemoryFormat> format) {
  return empty_strided(size, dense_strides(size, format), dtype, layout, device, pinned);
}

Tensor& copy_(Tensor& to, const Tensor& from, bool non_blocking) {
  const int64_t bytes = from.numel() * static_cast<int64_t>(from.element_size());
  if (to.is_cuda() && !from.is_cuda() && bytes) {
    count_copy("to device", bytes);
    if (!non_blocking) count_wait("copy to device");  // torch waits for the stream, then for the copy
  }
  if (!to.is_cuda() && from.is_cuda() && bytes) {
    count_copy("to host", bytes);
    count_wait(non_blocking ? "copy to host, non_blocking" : "copy to host");
  }
  as_host(to).copy_(as_host(from));
  return to;
}
Tensor copy_from(const Tensor& from, const Tensor& to, bool non_blocking) {
  Tensor target = to;
  return copy_(target, from, non_blocking);
}
at::Scalar number(const Tensor& tensor) {
  count_copy("to host", static_cast<int64_t>(tensor.element_size()));
  count_wait("aten::_local_scalar_dense");
  return at::_local_scalar_dense(as_host(tensor));
}

const Tensor& resize_(const Tensor& tensor, at::IntArrayRef size, std::optional<at::MemoryFormat>) {
  at::native::resize_impl_cpu_(tensor.unsafeGetTensorImpl(), size, std::nullopt, true);
  return tensor;
}
Tensor& set_storage(Tensor& tensor, at::Storage storage, int64_t offset, at::IntArrayRef size, at::IntArrayRef stride) {
  auto* impl = tensor.unsafeGetTensorImpl();
  impl->set_storage_keep_dtype(std::move(storage));
  impl->set_storage_offset(offset);
  const auto dense = dense_strides(size, std::nullopt);
  impl->set_sizes_and_strides(size, stride.empty() ? at::IntArrayRef(dense) : stride);
  return tensor;
}
Tensor& set_tensor(Tensor& tensor, const Tensor& source) {
  return set_storage(tensor, source.storage(), source.storage_offset(), source.sizes(), source.strides());
}
Tensor& set_whole_storage(Tensor& tensor, at::Storage storage) {
  const auto elements = static_cast<int64_t>(storage.nbytes() / tensor.dtype().itemsize());
  return set_storage(tensor, std::move(storage), 0, {elements}, {1});
}
Tensor& set_empty(Tensor& tensor) {
  return set_storage(tensor, on_device({0}, {1}, tensor.scalar_type(), tensor.get_device()).storage(), 0, {0}, {1});
}
Tensor as_strided(const Tensor& tensor, at::IntArrayRef size, at::IntArrayRef stride, std::optional<int64_t> offset) {
  return at::native::as_strided_tensorimpl(tensor, size, stride, offset);
}

// A product with a result of another type, which no kernel of the CPU has.
Tensor bmm_dtype(const Tensor& left, const Tensor& right, at::ScalarType dtype) {
  count_operator("aten::bmm.dtype");
  if (!left.is_cuda() || !right.is_cuda()) refuse("aten::bmm.dtype: tensors on cuda and cpu");
  if (left.scalar_type() != right.scalar_type()) refuse("aten::bmm.dtype: factors of two types");
  return to_device(at::bmm(as_host(left).to(dtype), as_host(right).to(dtype)), left.get_device());
}

// float16 in and float32 out, which no kernel of the CPU has.
Tensor softmax(const Tensor& input, int64_t dimension, bool half_to_float) {
  count_operator("aten::_softmax");
  const Tensor host = as_host(input);
  return to_device(at::_softmax(half_to_float ? host.to(at::kFloat) : host, dimension, false), input.get_device());
}

// Counts the kernel that CUDA would take. Without gradients it runs (`fused_attention`), otherwise the composite one.
int64_t attention_kernel(const Tensor& query, const Tensor& key, const Tensor& value, const std::optional<Tensor>& mask, double dropout, bool, std::optional<double>, bool grouped) {
  const bool masked = mask && mask->defined();
  const bool half = query.scalar_type() == at::kHalf || query.scalar_type() == at::kBFloat16;
  const bool same = query.scalar_type() == key.scalar_type() && query.scalar_type() == value.scalar_type();
  std::string kernel = half ? "efficient" : "efficient, float32";
  auto backend = at::SDPBackend::efficient_attention;
  if (!same) kernel = "math: types differ";
  else if (masked) kernel = grouped ? "math: mask and grouped queries" : "efficient, masked";
  else if (half && query.size(-1) <= 256) kernel = "flash", backend = at::SDPBackend::flash_attention;
  count_operator("attention " + kernel);
  const bool trained = at::GradMode::is_enabled() && (query.requires_grad() || key.requires_grad() || value.requires_grad());
  if (trained || dropout > 0 || kernel.rfind("math", 0) == 0) backend = at::SDPBackend::math;
  return static_cast<int64_t>(backend);
}

// The output, and the log-sum-exp of the logits in float32, which CUDA's kernels keep for the backward pass.
std::pair<Tensor, Tensor> fused_attention(const Tensor& query, const Tensor& key, const Tensor& value, const std::optional<Tensor>& mask, bool causal, std::optional<double> scale) {
  const Tensor queries = as_host(query), keys = as_host(key);
  const int64_t heads = queries.size(1) / keys.size(1);
  std::optional<Tensor> bias;
  if (mask && mask->defined()) bias = as_host(*mask);
  const Tensor output = std::get<0>(at::_scaled_dot_product_attention_math(queries, keys, as_host(value), bias, 0, causal, {}, scale, heads > 1));
  Tensor logits = at::matmul(queries.to(at::kFloat), keys.to(at::kFloat).repeat_interleave(heads, 1).transpose(2, 3));
  logits.mul_(scale.value_or(1 / std::sqrt(static_cast<double>(queries.size(3)))));
  if (causal) logits.masked_fill_(at::ones({queries.size(2), keys.size(2)}, at::kBool).tril().logical_not(), -INFINITY);
  if (bias) logits = logits + *bias;
  return {to_device(output, query.get_device()), to_device(logits.logsumexp(3), query.get_device())};
}
using Flash = std::tuple<Tensor, Tensor, Tensor, Tensor, c10::SymInt, c10::SymInt, Tensor, Tensor, Tensor>;
Flash flash(const Tensor& query, const Tensor& key, const Tensor& value, double, bool causal, bool, std::optional<double> scale) {
  const auto [output, logsumexp] = fused_attention(query, key, value, std::nullopt, causal, scale);
  return {output, logsumexp, Tensor(), Tensor(), query.size(2), key.size(2), Tensor(), Tensor(), Tensor()};
}
// Its log-sum-exp is padded to a multiple of 32, and computed only on request.
std::tuple<Tensor, Tensor, Tensor, Tensor> efficient(const Tensor& query, const Tensor& key, const Tensor& value, const std::optional<Tensor>& bias, bool with_logsumexp, double, bool causal, std::optional<double> scale) {
  const auto [output, logsumexp] = fused_attention(query, key, value, bias, causal, scale);
  const int64_t pads = (32 - query.size(2) % 32) % 32;
  return {output, with_logsumexp ? at::constant_pad_nd(logsumexp, {0, pads}, INFINITY) : logsumexp.slice(2, 0, 0), Tensor(), Tensor()};
}

struct AttentionOfTheDevice {
  AttentionOfTheDevice() { at::native::_fused_sdp_choice_stub.set_cuda_dispatch_ptr(&attention_kernel); }
} registered;

}  // namespace
}  // namespace emulated

TORCH_LIBRARY_IMPL(_, CUDA, library) { library.fallback(torch::CppFunction::makeFromBoxedFunction<&emulated::by_cpu>()); }
TORCH_LIBRARY_IMPL(aten, CUDA, library) {
  library.impl("empty.memory_format", emulated::empty);
  library.impl("empty_strided", emulated::empty_strided);
  library.impl("copy_", emulated::copy_);
  library.impl("_copy_from", emulated::copy_from);
  library.impl("_local_scalar_dense", emulated::number);
  library.impl("resize_", emulated::resize_);
  library.impl("set_", emulated::set_empty);
  library.impl("set_.source_Tensor", emulated::set_tensor);
  library.impl("set_.source_Storage", emulated::set_whole_storage);
  library.impl("set_.source_Storage_storage_offset", emulated::set_storage);
  library.impl("is_set_to", at::native::is_set_to);
  library.impl("as_strided", emulated::as_strided);
  library.impl("view", at::native::view);
  library.impl("_reshape_alias", at::native::_reshape_alias);
  library.impl("unfold", at::native::unfold);
  library.impl("view_as_real", at::native::view_as_real);
  library.impl("bmm.dtype", emulated::bmm_dtype);
  library.impl("_softmax", emulated::softmax);
  library.impl("_scaled_dot_product_flash_attention", emulated::flash);
  library.impl("_scaled_dot_product_efficient_attention", emulated::efficient);
}
