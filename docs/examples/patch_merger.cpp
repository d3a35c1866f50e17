// A PatchMerger in C++, and its test against every golden vector that there is for it (docs/vectors.md).
#include "golden.hpp"

// Yours goes here: tokens (N,C) of one sample, queries (M,C), scale and bias (C); gives weights (M,N) and tokens (M,C).
struct Merged {
    std::vector<float> weights, tokens;
};

Merged patch_merger(const std::vector<float>& x, const std::vector<char>& real, const std::vector<float>& queries,
                    const std::vector<float>& scale, const std::vector<float>& bias, size_t N, size_t M, size_t C,
                    float logit_scale, bool normalize, float eps) {
    std::vector<float> input(N * C);
    for (size_t n = 0; n < N; n++) {
        if (!real[n]) continue;  // padding may hold NaN: it is never read
        float mean = 0, variance = 0;
        for (size_t c = 0; c < C; c++) mean += x[n * C + c] / C;
        for (size_t c = 0; c < C; c++) variance += (x[n * C + c] - mean) * (x[n * C + c] - mean) / C;
        for (size_t c = 0; c < C; c++) {  // PM-1: a constant token becomes the bias, without 0/0
            float centred = x[n * C + c] - mean;
            float normalized = centred == 0 ? 0 : centred / std::sqrt(variance + eps);
            input[n * C + c] = normalize ? normalized * scale[c] + bias[c] : x[n * C + c];
        }
    }
    Merged made{std::vector<float>(M * N), std::vector<float>(M * C)};
    for (size_t m = 0; m < M; m++) {
        std::vector<float> logits(N);
        float largest = -INFINITY, total = 0;
        for (size_t n = 0; n < N; n++) {
            for (size_t c = 0; c < C; c++) logits[n] += queries[m * C + c] * input[n * C + c];
            logits[n] *= logit_scale;  // PM-2
            if (real[n] && logits[n] > largest) largest = logits[n];
        }
        for (size_t n = 0; n < N; n++) total += made.weights[m * N + n] = real[n] ? std::exp(logits[n] - largest) : 0;
        for (size_t n = 0; n < N && total > 0; n++) made.weights[m * N + n] /= total;  // PM-4: else all are zero
        for (size_t n = 0; n < N; n++)  // PM-3: the normalized tokens are merged
            for (size_t c = 0; c < C; c++) made.tokens[m * C + c] += made.weights[m * N + n] * input[n * C + c];
    }
    return made;
}

std::vector<float> floats(const golden::Tensor& tensor) { return {tensor.values.begin(), tensor.values.end()}; }

int main(int, char** arguments) {
    const std::string folder = arguments[1];
    const golden::Json index = golden::Parser(golden::contents(folder + "/index.json")).value();
    int tried = 0, wrong = 0;
    for (auto& one : index["cases"].items) {
        bool float32 = false;
        for (auto& dtype : one["dtypes"].items) float32 |= dtype.text == "float32";
        if (one["function"].text != "patch_merger" || !float32) continue;
        const golden::Tensors tensors(folder + "/" + one["file"].text);
        const golden::Json& config = one["config"];
        const std::string id = one["id"].text + "/";
        const golden::Tensor x = tensors[id + "inputs/x"];
        const size_t B = x.shape[0], N = x.shape[1], C = x.shape[2], M = size_t(config["num_tokens_out"].number);
        auto given = [&](const char* kind, const char* name, std::vector<float> otherwise) {
            return one[kind].find(name) ? floats(tensors[id + kind + "/" + name]) : otherwise;
        };
        const auto all = floats(x), mask = given("inputs", "mask", std::vector<float>(B * N, 1));
        const auto queries = given("params", "queries", {}), scale = given("params", "scale", std::vector<float>(C, 1));
        const auto bias = given("params", "bias", std::vector<float>(C, 0));
        const float logit_scale = config["logit_scale"].null() ? 1 / std::sqrt(float(C)) : float(config["logit_scale"].number);
        golden::Results got{{"weights", {}}, {"tokens", {}}};
        for (size_t b = 0; b < B; b++) {
            const Merged made = patch_merger({all.begin() + b * N * C, all.begin() + (b + 1) * N * C},
                                             {mask.begin() + b * N, mask.begin() + (b + 1) * N}, queries, scale, bias, N, M,
                                             C, logit_scale, config["normalize"].number == 1, float(config["eps"].number));
            got["weights"].insert(got["weights"].end(), made.weights.begin(), made.weights.end());
            got["tokens"].insert(got["tokens"].end(), made.tokens.begin(), made.tokens.end());
        }
        tried++;
        wrong += !golden::check(one, tensors, got, "float32");
    }
    std::printf("%d of %d cases agree\n", tried - wrong, tried);
    return wrong ? 1 : 0;
}
