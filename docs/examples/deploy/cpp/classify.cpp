// A merged model without Python: the class of a picture, and which patches went together.
//
//     tokenmerge export MODEL --merger tome --r 16 --with-plans --out model.onnx
//     ./classify model.onnx photo.ppm
//
// The picture is a binary PPM of the model's own width and height (`convert photo.jpg -resize 224x224! photo.ppm`).
// OpenVINO reads an .xml of `--format openvino` as well.
#include <cstdint>
#include <cstdio>
#include <exception>
#include <fstream>
#include <iterator>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

#include <openvino/runtime/core.hpp>

// A PPM as (1, 3, height, width) with values from -1 to 1.
ov::Tensor read_picture(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::string kind;
  size_t width = 0, height = 0, most = 0;
  file >> kind >> width >> height >> most;
  file.get();  // one white space
  const std::vector<uint8_t> bytes((std::istreambuf_iterator<char>(file)), {});
  if (kind != "P6" || most != 255 || bytes.empty() || bytes.size() / 3 / width != height)
    throw std::runtime_error(path + " must be a binary PPM (P6) of eight bits without comments");
  ov::Tensor image(ov::element::f32, {1, 3, height, width});
  float* values = image.data<float>();
  for (size_t channel = 0; channel < 3; ++channel)
    for (size_t pixel = 0; pixel < height * width; ++pixel)
      values[channel * height * width + pixel] = 2 * (bytes[3 * pixel + channel] / 255.0f) - 1;
  return image;
}

void run(const std::string& model, const std::string& picture) {
  const ov::Tensor image = read_picture(picture);
  ov::AnyMap settings = {{"INFERENCE_PRECISION_HINT", "f32"}};  // and not bfloat16 where the processor has it
  ov::CompiledModel compiled = ov::Core().compile_model(model, "CPU", settings);
  ov::InferRequest request = compiled.create_infer_request();
  request.set_input_tensor(image);
  request.infer();

  const ov::Tensor logits = request.get_output_tensor(0);
  size_t best = 0;
  for (size_t index = 0; index < logits.get_size(); ++index) {
    std::printf("logit %zu %.9g\n", index, logits.data<float>()[index]);
    if (logits.data<float>()[index] > logits.data<float>()[best]) best = index;
  }
  std::printf("class %zu\n", best);

  if (compiled.outputs().size() < 2) return;  // exported without plans
  const ov::Tensor plan = request.get_output_tensor(1);
  if (plan.get_shape().size() != 2) return;  // weights, which mix tokens
  std::map<int64_t, std::vector<size_t>> groups;  // by the token that a patch went into, -1 for none
  for (size_t token = 0; token < plan.get_size(); ++token) groups[plan.data<int64_t>()[token]].push_back(token);
  for (const auto& [into, tokens] : groups) {
    std::printf("token %lld:", static_cast<long long>(into));
    for (size_t token : tokens) std::printf(" %zu", token);
    std::printf("\n");
  }
}

int main(int count, char** words) {
  try {
    if (count != 3) throw std::runtime_error("needs MODEL.onnx and PICTURE.ppm");
    run(words[1], words[2]);
  } catch (const std::exception& error) {
    return std::fprintf(stderr, "classify: %s\n", error.what()), 2;
  }
}
