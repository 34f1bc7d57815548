// Decodes a token stream to pictures: decoder ENDPOINT STREAM STEP.onnx OUT.rgb [COUNT].
//
// STEP.onnx is what `streamtok export-model MODEL --size HxW --direction decode` writes. OUT.rgb gets the pictures one
// after the other, 8-bit RGB rows without padding: ffplay -f rawvideo -pixel_format rgb24 -video_size WxH OUT.rgb
#include <onnxruntime_cxx_api.h>

#include <fstream>
#include <iostream>
#include <numeric>

#include "stream.hpp"

// One exported step with its state: zeros before the first grid, what came out goes in again.
class Decoder {
public:
    explicit Decoder(const char* path) : session_(environment_, path, Ort::SessionOptions{}) {
        Ort::AllocatorWithDefaultOptions allocator;
        const auto text = session_.GetModelMetadata().LookupCustomMetadataMapAllocated("streamtok", allocator);
        if (!text) throw std::runtime_error("the file was not made by streamtok export-model");
        facts = streamtok::Json::parse(text.get());
        if (facts.at("direction") != "decode") throw std::runtime_error("the file encodes; export --direction decode");
        for (const auto& input : facts.at("inputs")) {
            inputs_.push_back(input.at("name"));
            state_.push_back(zeros(input));
        }
        for (const auto& output : facts.at("outputs")) outputs_.push_back(output);
    }

    // The pictures of one grid, uint8 (G, H, W, 3), of which a keyframe has only the last.
    std::vector<uint8_t> step(const std::vector<uint32_t>& tokens, bool keyframe) {
        std::copy(tokens.begin(), tokens.end(), state_[0].GetTensorMutableData<int32_t>());
        *state_[1].GetTensorMutableData<bool>() = keyframe;
        const auto in = pointers(inputs_), out = pointers(outputs_);
        auto results = session_.Run(Ort::RunOptions{}, in.data(), state_.data(), in.size(), out.data(), out.size());
        for (size_t i = 1; i < results.size(); ++i) state_[i + 1] = std::move(results[i]);
        const auto* pixels = results[0].GetTensorData<uint8_t>();
        const size_t count = results[0].GetTensorTypeAndShapeInfo().GetElementCount();
        const size_t picture = count / facts.at("temporal_compression").get<size_t>();
        return {keyframe ? pixels + count - picture : pixels, pixels + count};
    }

    streamtok::Json facts;

private:
    Ort::Value zeros(const streamtok::Json& input) {
        const std::vector<int64_t> shape = input.at("shape");
        const auto kind = session_.GetInputTypeInfo(state_.size()).GetTensorTypeAndShapeInfo().GetElementType();
        Ort::AllocatorWithDefaultOptions allocator;
        auto value = Ort::Value::CreateTensor(allocator, shape.data(), shape.size(), kind);
        const size_t width = kind == ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL    ? 1
                             : kind == ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64 ? 8
                                                                           : 4;
        std::memset(value.GetTensorMutableData<char>(), 0, width * value.GetTensorTypeAndShapeInfo().GetElementCount());
        return value;
    }

    static std::vector<const char*> pointers(const std::vector<std::string>& names) {
        std::vector<const char*> found;
        for (const auto& name : names) found.push_back(name.c_str());
        return found;
    }

    Ort::Env environment_{ORT_LOGGING_LEVEL_WARNING, "streamtok"};
    Ort::Session session_;
    std::vector<std::string> inputs_, outputs_;
    std::vector<Ort::Value> state_;  // the tokens, keyframe and count, then the state, as the inputs go
};

int main(int argc, char** argv) try {
    if (argc < 5) {
        std::cerr << "usage: decoder ENDPOINT STREAM STEP.onnx OUT.rgb [COUNT]\n";
        return 2;
    }
    const long wanted = argc > 5 ? std::stol(argv[5]) : -1;
    Decoder decoder(argv[3]);
    std::ofstream out(argv[4], std::ios::binary);
    streamtok::Stream stream(argv[1], argv[2]);
    long pictures = 0;
    while (stream.counts.messages != wanted) {
        const auto message = stream.next();
        if (!message) break;
        const auto& header = message->header;
        if (header.at("tokenizer") != decoder.facts.at("tokenizer") || header.at("grid") != decoder.facts.at("grid"))
            throw std::runtime_error("the stream is of another model or size than the exported step");
        if (!message->decodable) continue;
        const auto pixels = decoder.step(message->tokens, header.at("keyframe"));
        const size_t frames = header.at("frame_ids").size();  // repeats that fill a group are no pictures of their own
        const size_t picture = decoder.facts.at("image_size")[0].get<size_t>() *
                               decoder.facts.at("image_size")[1].get<size_t>() * 3;
        if (frames * picture > pixels.size()) continue;  // more than a group has
        out.write(reinterpret_cast<const char*>(pixels.data()), std::streamsize(frames * picture));
        pictures += long(frames);
    }
    std::cout << streamtok::Json{{"pictures", pictures}, {"lost", stream.counts.lost}} << std::endl;
} catch (const std::exception& error) {
    std::cerr << "decoder: " << error.what() << "\n";
    return 1;
}
