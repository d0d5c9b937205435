// What the parts of the emulated device share: the current device, memory and counters.
#pragma once
#include <ATen/ATen.h>
#include <c10/core/Allocator.h>

#include <atomic>
#include <cstdint>
#include <optional>
#include <string>

namespace emulated {

extern thread_local int current_device;
extern std::atomic<int> device_count;

// Memory of the device comes from the host; only its device differs.
c10::Allocator* device_memory();

// What a GPU has to wait for, an operator that ran, bytes that crossed the bus.
void count_wait(const std::string& reason);
void count_operator(const std::string& name);
void count_copy(const std::string& direction, int64_t bytes);

// A new tensor of the device, its values undefined.
at::Tensor on_device(at::IntArrayRef size, at::IntArrayRef stride, at::ScalarType dtype, int device);
// The same memory as a tensor of the CPU; a tensor of the CPU is returned as it is.
at::Tensor as_host(const at::Tensor& tensor);
// A copy of a tensor of the CPU on the device.
at::Tensor to_device(const at::Tensor& tensor, int device);
// Strides of a dense tensor.
std::vector<int64_t> dense_strides(at::IntArrayRef size, std::optional<at::MemoryFormat> format);

}  // namespace emulated
