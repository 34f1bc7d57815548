// Prints a token stream: reader tcp://127.0.0.1:5555 front [COUNT]. One JSON object a line, then one with the counts.
#include <iostream>

#include "stream.hpp"

int main(int argc, char** argv) try {
    if (argc < 3) {
        std::cerr << "usage: reader ENDPOINT STREAM [COUNT]\n";
        return 2;
    }
    const long wanted = argc > 3 ? std::stol(argv[3]) : -1;
    streamtok::Stream stream(argv[1], argv[2]);
    while (stream.counts.messages != wanted) {
        const auto message = stream.next();
        if (!message) break;
        const auto& header = message->header;
        const streamtok::Json line = {{"seq", header.at("seq")},           {"epoch", header.at("epoch")},
                                      {"keyframe", header.at("keyframe")}, {"decodable", message->decodable},
                                      {"lost", message->lost},             {"frame_ids", header.at("frame_ids")},
                                      {"tokens", message->tokens},         {"latent", message->latent}};
        std::cout << line << std::endl;
    }
    const auto& counts = stream.counts;
    std::cout << streamtok::Json{{"messages", counts.messages}, {"lost", counts.lost}, {"malformed", counts.malformed}}
              << std::endl;
} catch (const std::exception& error) {
    std::cerr << "reader: " << error.what() << "\n";
    return 1;
}
