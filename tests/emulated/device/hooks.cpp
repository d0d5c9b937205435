// What torch asks whether there is CUDA; registered before torch is imported.
#include "device.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/Generator.h>
#include <ATen/detail/CUDAHooksInterface.h>

#include <cstdlib>
#include <cstring>
#include <mutex>
#include <set>

namespace emulated {
namespace {

std::mutex pinned_lock;
std::set<const void*> pinned;

void release(void* address) {
  {
    std::lock_guard<std::mutex> guard(pinned_lock);
    pinned.erase(address);
  }
  std::free(address);
}

struct PinnedMemory final : public c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    void* address = std::aligned_alloc(64, (bytes + 63) / 64 * 64 + 64);
    std::lock_guard<std::mutex> guard(pinned_lock);
    pinned.insert(address);
    return {address, address, &release, c10::Device(c10::DeviceType::CPU)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void* to, const void* from, size_t bytes) const override { std::memcpy(to, from, bytes); }
};
PinnedMemory pinned_memory;

c10::DeviceIndex exchange(c10::DeviceIndex device) {
  const auto before = static_cast<c10::DeviceIndex>(current_device);
  current_device = device;
  return before;
}

}  // namespace
}  // namespace emulated

// Random numbers are the CPU's: one generator serves all devices.
struct CUDAHooks : public at::CUDAHooksInterface {
  CUDAHooks(at::CUDAHooksArgs) {}
  void init() const override {}
  bool hasCUDA() const override { return true; }
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  c10::DeviceIndex deviceCount() const override { return emulated::device_count; }
  int getNumGPUs() const override { return emulated::device_count; }
  c10::DeviceIndex current_device() const override { return emulated::current_device; }
  c10::DeviceIndex getCurrentDevice() const override { return emulated::current_device; }
  void setCurrentDevice(c10::DeviceIndex device) const override { emulated::current_device = device; }
  c10::DeviceIndex exchangeDevice(c10::DeviceIndex device) const override { return emulated::exchange(device); }
  c10::DeviceIndex maybeExchangeDevice(c10::DeviceIndex device) const override { return emulated::exchange(device); }
  bool isPinnedPtr(const void* address) const override {
    std::lock_guard<std::mutex> guard(emulated::pinned_lock);
    return emulated::pinned.count(address) > 0;
  }
  c10::Allocator* getPinnedMemoryAllocator() const override { return &emulated::pinned_memory; }
  const at::Generator& getDefaultGenerator(c10::DeviceIndex) const override { return at::detail::getDefaultCPUGenerator(); }
  at::Generator getNewGenerator(c10::DeviceIndex) const override { return at::detail::createCPUGenerator(); }
  void deviceSynchronize(c10::DeviceIndex) const override {}
  at::Device getDeviceFromPtr(void*) const override { return {at::kCUDA, static_cast<c10::DeviceIndex>(emulated::current_device)}; }
};
using at::CUDAHooksRegistry;
namespace at {
C10_REGISTER_CLASS(CUDAHooksRegistry, CUDAHooks, CUDAHooks)
}
