#include <cstring>

#include "bind/kernel.h"
#include "core/isa.h"
#include "core/pool.h"

namespace vlm::bind {
namespace {

std::vector<Binder>& binders() {
  static std::vector<Binder> list;
  return list;
}

template <class T>
void copy_strided(const char* from, char* to, const mx::Shape& shape, const mx::Strides& strides) {
  T* out = reinterpret_cast<T*>(to);
  if (shape.empty()) {
    *out = *reinterpret_cast<const T*>(from);
    return;
  }
  const std::function<void(const T*, size_t)> outer = [&](const T* in, size_t at) {
    if (at + 1 == shape.size()) {
      const int64_t step = strides[int(at)];
      const int count = shape[int(at)];
      for (int i = 0; i < count; ++i) out[i] = in[i * step];
      out += count;
      return;
    }
    for (int i = 0; i < shape[int(at)]; ++i) outer(in + i * strides[int(at)], at + 1);
  };
  outer(reinterpret_cast<const T*>(from), 0);
}

mx::array copy(const mx::array& array, mx::cpu::CommandEncoder& encoder) {
  mx::array result(array.shape(), array.dtype(), nullptr, {});
  allocate(result);
  encoder.add_temporary(result);
  encoder.dispatch([from = array.data<char>(), to = result.data<char>(), shape = array.shape(), strides = array.strides(),
                    size = array.itemsize()]() {
    if (size == 4) copy_strided<uint32_t>(from, to, shape, strides);
    else if (size == 2) copy_strided<uint16_t>(from, to, shape, strides);
    else copy_strided<uint8_t>(from, to, shape, strides);
  });
  return result;
}

Isa isa_of(const std::string& name) {
  for (Isa isa : {Isa::portable, Isa::avx2, Isa::avx512, Isa::avx512bf16, Isa::neon}) {
    if (name == isa_name(isa)) return isa;
  }
  throw std::invalid_argument("unknown instruction set: " + name);
}

}  // namespace

Binding::Binding(Binder binder) { binders().push_back(binder); }

std::vector<mx::array> Kernel::vjp(const Arrays& primals, const Arrays& cotangents, const std::vector<int>& arguments, const Arrays&) {
  // Only the arguments asked for are variables: the others may be integers, of which there is no gradient.
  Arrays variables;
  for (int i : arguments) variables.push_back(primals[size_t(i)]);
  const auto function = [&](const Arrays& given) {
    Arrays all = primals;
    for (size_t i = 0; i < arguments.size(); ++i) all[size_t(arguments[i])] = given[i];
    return definition_(all);
  };
  return mx::vjp(function, variables, cotangents).second;
}

std::vector<mx::array> Kernel::jvp(const Arrays& primals, const Arrays& tangents, const std::vector<int>& arguments) {
  Arrays variables;
  for (int i : arguments) variables.push_back(primals[size_t(i)]);
  const auto function = [&](const Arrays& given) {
    Arrays all = primals;
    for (size_t i = 0; i < arguments.size(); ++i) all[size_t(arguments[i])] = given[i];
    return definition_(all);
  };
  return mx::jvp(function, variables, tangents).second;
}

std::pair<Arrays, std::vector<int>> Kernel::vmap(const Arrays& inputs, const std::vector<int>& axes) {
  Arrays results = mx::vmap(definition_, axes)(inputs);
  return {results, std::vector<int>(results.size(), 0)};
}

mx::Stream current_stream() { return mx::default_stream(mx::default_device()); }

bool is_floating(const mx::array& array) {
  return array.dtype() == mx::float32 || array.dtype() == mx::float16 || array.dtype() == mx::bfloat16;
}

Type type_of(mx::Dtype dtype) {
  if (dtype == mx::float32) return Type::f32;
  if (dtype == mx::float16) return Type::f16;
  if (dtype == mx::bfloat16) return Type::bf16;
  throw std::invalid_argument("native kernel: expected float32, float16 or bfloat16");
}

Type type_of(const mx::array& array) { return type_of(array.dtype()); }

void allocate(mx::array& array) { array.set_data(mx::allocator::malloc(array.nbytes())); }

mx::array contiguous(const mx::array& array, mx::cpu::CommandEncoder& encoder) {
  return array.flags().row_contiguous || array.size() == 0 ? array : copy(array, encoder);
}

mx::array contiguous_rows(const mx::array& array, mx::cpu::CommandEncoder& encoder) {
  bool good = array.size() == 0 || array.ndim() == 0 || array.shape(-1) == 1 || array.strides(-1) == 1;
  for (const auto stride : array.strides()) good = good && stride >= 0;
  return good ? array : copy(array, encoder);
}

size_t leading(const mx::array& array, size_t kept) {
  size_t count = 1;
  for (size_t i = 0; i + kept < array.ndim(); ++i) count *= size_t(array.shape(int(i)));
  return count;
}

}  // namespace vlm::bind

NB_MODULE(_native, module) {
  using namespace vlm;
  nanobind::module_::import_("mlx.core");
  module.doc() = "Native CPU kernels of vlm-kernels.";
  module.def("instruction_set", [] { return std::string(isa_name(current_isa())); });
  module.def("instruction_sets", [] {
    std::vector<std::string> names;
    for (Isa isa : {Isa::portable, Isa::avx2, Isa::avx512, Isa::avx512bf16, Isa::neon}) {
      if (isa_available(isa)) names.push_back(isa_name(isa));
    }
    return names;
  });
  module.def("set_instruction_set", [](const std::string& name) {
    if (!select_isa(bind::isa_of(name))) throw std::invalid_argument("not available here: " + name);
  });
  module.def("num_threads", [] { return num_threads(); });
  module.def("set_num_threads", [](int count) { set_num_threads(count); });
  for (const auto binder : bind::binders()) binder(module);
}
