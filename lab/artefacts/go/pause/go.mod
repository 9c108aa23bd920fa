module kubecozy.example/lab/pause

go 1.26.0
