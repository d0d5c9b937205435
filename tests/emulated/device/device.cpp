// The device: how many there are, which is current, its memory, and what is counted.
#include "device.h"

#include <ATen/native/Resize.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>

namespace emulated {

thread_local int current_device = 0;
std::atomic<int> device_count{1};

namespace {

std::atomic<int64_t> held_bytes{0}, peak_bytes{0};
std::mutex counter_lock;
std::map<std::string, int64_t> waits, operators, copied_bytes;
void (*wait_listener)(const char*) = nullptr;

void count(std::map<std::string, int64_t>& counter, const std::string& name, int64_t by) {
  std::lock_guard<std::mutex> guard(counter_lock);
  counter[name] += by;
}

// Streams do nothing: every operator has ended when its call returns.
struct Guard final : public c10::impl::DeviceGuardImplInterface {
  static constexpr c10::DeviceType static_type = c10::DeviceType::CUDA;
  static int index(c10::Device device) { return device.index() < 0 ? 0 : device.index(); }
  c10::DeviceType type() const override { return static_type; }
  c10::Device exchangeDevice(c10::Device device) const override {
    c10::Device before(static_type, current_device);
    current_device = index(device);
    return before;
  }
  c10::Device getDevice() const override { return {static_type, static_cast<c10::DeviceIndex>(current_device)}; }
  void setDevice(c10::Device device) const override { current_device = index(device); }
  void uncheckedSetDevice(c10::Device device) const noexcept override { current_device = index(device); }
  c10::Stream getStream(c10::Device device) const override {
    return c10::Stream(c10::Stream::DEFAULT, device.index() < 0 ? getDevice() : device);
  }
  c10::Stream getDefaultStream(c10::Device device) const override { return getStream(device); }
  c10::Stream getNewStream(c10::Device device, int) const override { return getStream(device); }
  c10::Stream exchangeStream(c10::Stream stream) const override { return getStream(stream.device()); }
  c10::DeviceIndex deviceCount() const noexcept override { return device_count; }
  void record(void**, const c10::Stream&, const c10::DeviceIndex, const c10::EventFlag) const override {}
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  bool queryStream(const c10::Stream&) const override { return true; }
  void synchronizeStream(const c10::Stream&) const override {}
  void synchronizeEvent(void*) const override {}
  void synchronizeDevice(const c10::DeviceIndex) const override {}
  void recordDataPtrOnStream(const c10::DataPtr&, const c10::Stream&) const override {}
};

struct Block {
  void* address;
  int64_t bytes;
};
void release(void* context) {
  auto* block = static_cast<Block*>(context);
  held_bytes -= block->bytes;
  std::free(block->address);
  delete block;
}

struct Memory final : public c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    void* address = bytes ? std::aligned_alloc(64, (bytes + 63) / 64 * 64) : nullptr;
    const int64_t now = held_bytes += bytes;
    int64_t peak = peak_bytes.load();
    while (now > peak && !peak_bytes.compare_exchange_weak(peak, now)) {
    }
    const auto index = static_cast<c10::DeviceIndex>(current_device);
    return {address, new Block{address, static_cast<int64_t>(bytes)}, &release, {c10::DeviceType::CUDA, index}};
  }
  c10::DeleterFnPtr raw_deleter() const override { return nullptr; }
  void copy_data(void* to, const void* from, size_t bytes) const override { std::memcpy(to, from, bytes); }
};
Memory memory;

struct MemoryOfTheDevice {
  MemoryOfTheDevice() { c10::SetAllocator(c10::DeviceType::CUDA, &memory, 100); }
} registered;

C10_REGISTER_GUARD_IMPL(CUDA, Guard);

}  // namespace

c10::Allocator* device_memory() { return &memory; }

void count_wait(const std::string& reason) {
  count(waits, reason, 1);
  if (wait_listener) wait_listener(reason.c_str());
}
void count_operator(const std::string& name) { count(operators, name, 1); }
void count_copy(const std::string& direction, int64_t bytes) { count(copied_bytes, direction, bytes); }

at::Tensor on_device(at::IntArrayRef size, at::IntArrayRef stride, at::ScalarType dtype, int device) {
  int64_t elements = 1;
  for (size_t axis = 0; axis < size.size(); axis++) {
    if (size[axis] == 0) {
      elements = 0;
      break;
    }
    elements += (size[axis] - 1) * stride[axis];
  }
  const int before = current_device;
  current_device = device < 0 ? current_device : device;
  auto storage = c10::make_intrusive<c10::StorageImpl>(
      c10::StorageImpl::use_byte_size_t(), elements * c10::elementSize(dtype), &memory, true);
  current_device = before;
  auto tensor = at::detail::make_tensor<c10::TensorImpl>(
      std::move(storage), c10::DispatchKeySet(c10::DispatchKey::CUDA), c10::scalarTypeToTypeMeta(dtype));
  tensor.unsafeGetTensorImpl()->set_sizes_and_strides(size, stride);
  return tensor;
}

std::vector<int64_t> dense_strides(at::IntArrayRef size, std::optional<at::MemoryFormat> format) {
  if (format == at::MemoryFormat::ChannelsLast && size.size() == 4) return c10::get_channels_last_strides_2d(size);
  std::vector<int64_t> stride(size.size());
  int64_t step = 1;
  for (int axis = static_cast<int>(size.size()) - 1; axis >= 0; axis--) {
    stride[axis] = step;
    step *= std::max<int64_t>(size[axis], 1);
  }
  return stride;
}

at::Tensor as_host(const at::Tensor& tensor) {
  if (!tensor.defined() || !tensor.is_cuda()) return tensor;
  auto* owner = new c10::Storage(tensor.storage());
  c10::DataPtr address(
      owner->unsafeGetStorageImpl()->mutable_data(), owner,
      [](void* context) { delete static_cast<c10::Storage*>(context); }, c10::Device(c10::DeviceType::CPU));
  auto storage = c10::make_intrusive<c10::StorageImpl>(
      c10::StorageImpl::use_byte_size_t(), owner->nbytes(), std::move(address), nullptr, false);
  auto host = at::detail::make_tensor<c10::TensorImpl>(
      std::move(storage), c10::DispatchKeySet(c10::DispatchKey::CPU), tensor.dtype());
  host.unsafeGetTensorImpl()->set_storage_offset(tensor.storage_offset());
  host.unsafeGetTensorImpl()->set_sizes_and_strides(tensor.sizes(), tensor.strides());
  if (tensor.is_conj()) host._set_conj(true);
  if (tensor.is_neg()) host._set_neg(true);
  return host;
}

at::Tensor to_device(const at::Tensor& tensor, int device) {
  if (!tensor.defined()) return tensor;
  const auto dense = dense_strides(tensor.sizes(), std::nullopt);
  const at::IntArrayRef stride = tensor.is_non_overlapping_and_dense() ? tensor.strides() : at::IntArrayRef(dense);
  auto copy = on_device(tensor.sizes(), stride, tensor.scalar_type(), device);
  as_host(copy).copy_(tensor);
  return copy;
}

}  // namespace emulated

// What Python calls, by ctypes.
extern "C" {
int64_t held() { return emulated::held_bytes; }
int64_t peak() { return emulated::peak_bytes; }
void reset_peak() { emulated::peak_bytes = emulated::held_bytes.load(); }
void set_devices(int count) { emulated::device_count = count; }
void set_current(int device) { emulated::current_device = device; }
int get_current() { return emulated::current_device; }
void listen(void (*listener)(const char*)) { emulated::wait_listener = listener; }
void reset_counters() {
  std::lock_guard<std::mutex> guard(emulated::counter_lock);
  emulated::waits.clear();
  emulated::operators.clear();
  emulated::copied_bytes.clear();
}
// Lines "kind<tab>name<tab>count"; valid until the next call.
const char* counters() {
  static std::string text;
  std::lock_guard<std::mutex> guard(emulated::counter_lock);
  text.clear();
  for (auto& [kind, counter] : {std::pair{"wait", &emulated::waits}, {"operator", &emulated::operators}, {"copied", &emulated::copied_bytes}})
    for (auto& [name, count] : *counter) text += std::string(kind) + "\t" + name + "\t" + std::to_string(count) + "\n";
  return text.c_str();
}
}
